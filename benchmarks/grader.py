"""How close the packaged grader comes to the oracle, on phantom studies of a seed nothing was trained on: at given coordinates, and at places it finds itself.

    python benchmarks/grader.py [--studies 200] [--seed 777] [--folder DIR]

DIR keeps the studies between runs. Prints the scores with bootstrap intervals, the figures of each group, the errors of the places, and what the coarser answers score.
"""
import argparse,os,tempfile
os.environ.setdefault('OMP_NUM_THREADS', '2'); os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
from pathlib import Path
import numpy as np
import pandas as pd
from lumbar_nbdev.cohort import Cohort
from lumbar_nbdev.core import *
from lumbar_nbdev.crops import cohort_crops
from lumbar_nbdev.evaluation import answered,bootstrap_scores,grade_table,study_costs
from lumbar_nbdev.landmarks import place_errors,slices_off
from lumbar_nbdev.metric import oracle_submission,prior_submission,score
from lumbar_nbdev.phantom import write_cohort
from lumbar_nbdev.severity import place_submission
from lumbar_nbdev.submission import Predictor,submission_table

def graded(cohort, predictor, truth):
    "Answers at found places, and the errors of the places."
    results,errors = [], []
    for s in progress(cohort.studies, 'grading'):
        r = predictor(cohort, s)
        e = place_errors(r.places, truth[truth.study_id==s])
        errors.append(e.assign(slices=slices_off(e, r.volumes)))
        r.volumes = r.mask = r.seen = r.crops = None
        results.append(r)
    return submission_table(results), pd.concat(errors)

def main(studies, seed, folder):
    folder = Path(folder or tempfile.mkdtemp())/f'{seed}-{studies}'
    if not folder.exists(): write_cohort(folder, studies, seed, 2)
    cohort,predictor = Cohort(folder/'rsna'), Predictor(settings('cpu'))
    truth = pd.read_csv(folder/'rsna/truth.csv')
    crops = cohort_crops(cohort, 2)
    found,errors = graded(cohort, predictor, truth)
    priors = predictor.grader.priors
    answers = {'priors, weight-adjusted': prior_submission(cohort.studies, priors), 'given coordinates': place_submission(crops.places, predictor.grader(crops)[0], priors), 'found places': found, 'oracle': oracle_submission(truth)}
    drawn = {k: bootstrap_scores(study_costs(v, cohort.labels)) for k,v in answers.items()}
    table = pd.DataFrame({k: score(v, cohort.labels).as_dict() for k,v in answers.items()}).T.iloc[:,:5]
    gap = pd.DataFrame({k: [d.mean(), *np.quantile(d, [.025,.975])] for k,d in ((k, v-drawn['oracle']) for k,v in drawn.items())}, index=['over oracle','low','high']).T
    print(f"\n{len(cohort.studies)} phantom studies of seed {seed}; lower is better; 95 % intervals from 2000 draws of studies\n\n{table.join(gap).round(3).to_string()}")
    for k in ('given coordinates','found places'): print(f"\n{k}\n{grade_table(answered(answers[k], cohort.labels), ['group']).round(3).to_string()}")
    by = errors.groupby('group')
    print(f"\nplaces found: {len(errors)} of {len(truth)}; at the wrong level {errors.wrong_level.mean():.2%}\n")
    print(pd.DataFrame(dict(median_mm=by.error_mm.median(), p95_mm=by.error_mm.quantile(.95), same_slice=by.slices.agg(lambda k: (k.dropna()==0).mean()), within_one=by.slices.agg(lambda k: (k.dropna()<=1).mean()))).round(2).to_string())
    print(f"\nmedian error by level, mm\n{errors.pivot_table(index='condition', columns='level', values='error_mm', aggfunc='median').round(1).to_string()}")
    errors.to_csv(folder/'errors.csv', index=False)
    for k,v in answers.items(): v.to_csv(folder/f'{k.split()[0].strip(",")}.csv', index=False)

if __name__=='__main__':
    p = argparse.ArgumentParser(); p.add_argument('--studies', type=int, default=200); p.add_argument('--seed', type=int, default=777); p.add_argument('--folder')
    a = p.parse_args(); main(a.studies, a.seed, a.folder)
