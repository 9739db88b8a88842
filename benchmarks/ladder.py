"""The ladder: what each idea adds to the score, on one split of one phantom cohort, with the same minutes of training for every rung.

    python benchmarks/ladder.py [--studies 180] [--minutes 4] [--folder DIR]

Two thirds of the studies are learned from, by their labels alone; the others are graded. DIR keeps the studies between runs. Every rung has a 95 % interval over studies, and so has its step from the rung before. Then the packaged grader answers for the same studies, whole and with parts taken away.
"""
import argparse,os,tempfile,time
os.environ.setdefault('OMP_NUM_THREADS', '2'); os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
from dataclasses import replace
from pathlib import Path
import numpy as np
import pandas as pd
import torch
from lumbar_nbdev import baseline,severity
from lumbar_nbdev.baseline import baseline_submission,plain_cnn,train_baseline
from lumbar_nbdev.cohort import Cohort
from lumbar_nbdev.core import *
from lumbar_nbdev.crops import SPAN,cohort_crops,join_crops,study_crops
from lumbar_nbdev.evaluation import bootstrap_scores,study_costs
from lumbar_nbdev.keypoints import packaged_finder
from lumbar_nbdev.landmarks import find_places
from lumbar_nbdev.levels import packaged_segmenter
from lumbar_nbdev.metric import oracle_submission,prior_submission,prior_table,score
from lumbar_nbdev.phantom import write_cohort
from lumbar_nbdev.severity import CropSet,calibrated,fit_calibration,fold_answers,grader_learner,grader_logits,packaged_grader,place_numbers,place_submission,targets,teach_grader
from lumbar_nbdev.unet import create_encoder

OWN = dict(spinal=SPAN['sagittal'], foraminal=SPAN['sagittal'], subarticular=SPAN['axial']) # slices of the series a group is named after
ONE = {g: (s.start+s.stop)//2 for g,s in OWN.items()} # the one nearest to the place

def only(crops, slices):
    "Crops of which only some slices are there; `slices` gives them for each group."
    shown = np.zeros_like(crops.shown)
    for g,s in slices.items():
        m = (crops.places.condition.map(condition_group)==g).to_numpy()
        shown[m,s] = crops.shown[m,s]
    return replace(crops, shown=shown)

def found_crops(cohort, segmenter, finder):
    "Crops around places found from the discs, and around the same places after the second look."
    parts = []
    for s in progress(cohort.studies, 'finding places'):
        volumes = cohort.volumes(s)
        sagittal = [v for k in ('Sagittal T2/STIR','Sagittal T1') for v in volumes if v.meta['series_type']==k]
        if not sagittal: continue
        places = find_places(segmenter(sagittal[0]))
        parts.append([study_crops(volumes, p.assign(study_id=s)) for p in (places,finder(volumes, places))])
    return [join_crops(p) for p in zip(*parts)]

def mirror_canals(crops):
    "The same crops, those of canals as a mirror shows them."
    canal,sagittal,axial = (crops.places.condition=='spinal_canal_stenosis').to_numpy(), SPAN['sagittal'], SPAN['axial']
    pictures,offset,shown = crops.pictures.copy(), crops.offset.copy(), crops.shown.copy()
    pictures[canal,axial] = crops.pictures[canal,axial,:,::-1]
    for new,old in ((pictures,crops.pictures),(offset,-crops.offset),(shown,crops.shown)): new[canal,sagittal] = old[canal,sagittal][:,::-1]
    return replace(crops, pictures=pictures, offset=offset, shown=shown)

def taken_away(found):
    "The answers of the packaged grader, and without one part or another."
    grader = packaged_grader()
    bent,number = grader.card['calibration'], place_numbers(found.places)
    odds = lambda crops,how=bent: calibrated(grader_logits(grader.net, CropSet(crops))[0], number, how)
    submit = lambda answers: place_submission(found.places, answers, grader.priors)
    whole = odds(found)
    return {'packaged grader, places found': submit(whole), 'without the other view': submit(odds(only(found, OWN))), 'one slice alone': submit(odds(only(found, ONE))),
            'without calibration': submit(odds(found, severity.AS_IT_IS)), 'with the canals in a mirror too': submit((whole+odds(mirror_canals(found)))/2)}

def steps(answers, labels, after=None):
    "A row for each answer: its score with an interval over studies, and the step from the answer before, or from the first of all."
    drawn,rows,before = {k: bootstrap_scores(study_costs(v, labels)) for k,v in answers.items()}, [], after
    for k,v in answers.items():
        step = drawn[k]-drawn[before] if before else np.zeros(1)
        rows.append(dict(rung=k, **{n: x for n,x in list(score(v, labels).as_dict().items())[:5]}, low=np.quantile(drawn[k], .025), high=np.quantile(drawn[k], .975), adds=step.mean(), from_=np.quantile(step, .025), to=np.quantile(step, .975)))
        before = after or k
    return pd.DataFrame(rows).set_index('rung').round(3).to_string()

def in_time(minutes, what, learner, batches):
    "Epochs that fill the minutes: a few steps are taken and timed."
    learn = learner()
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1) if batches<12 else None
        start = time.perf_counter(); learn.fit_one_cycle(1)
    epochs = max(round(60*minutes/(time.perf_counter()-start)), 1)
    print(f'{what}: {epochs} epochs', flush=True)
    return epochs

def main(studies, minutes, folder):
    folder = Path(folder or tempfile.mkdtemp())/f'ladder-{studies}'
    if not folder.exists(): write_cohort(folder, studies, 31, 2)
    cohort,run,work = Cohort(folder/'rsna'), settings('cpu'), Path(tempfile.mkdtemp())
    train,test = cohort.split_studies(1/3, run.seed)
    known,labels = (cohort.labels[cohort.labels.study_id.isin(i)] for i in (train,test))
    priors,raw = prior_table(known), prior_table(known)
    shares = known.groupby(['condition','level']).severity.value_counts(normalize=True).unstack(fill_value=0).reindex(columns=range(3), fill_value=0).loc[raw.index]+1e-3
    answers = {'shares of the grades': prior_submission(test, pd.DataFrame(shares.to_numpy(), raw.index, raw.columns)), 'weight-adjusted shares': prior_submission(test, priors)}
    spent,real = [], baseline.fit
    def timed(*a): # what the training takes, without the reading
        start = time.perf_counter(); real(*a); spent.append(time.perf_counter()-start)
        return a[0]
    baseline.fit = timed
    for name,body,rate in (('plain CNN, 5 layers, whole slices', lambda: plain_cnn(75, 5), 3e-3), ('plain CNN, 10 layers, whole slices', lambda: plain_cnn(75, 10), 3e-3), ('pretrained, whole slices', lambda: create_encoder(run.encoder, pretrained=True, num_classes=75), 1e-3)):
        train_baseline(cohort, train, test, body(), replace(run, baseline_epochs=2), rate)
        epochs = max(round(60*minutes*2/spent[-1]), 1)
        print(f'{name}: {epochs} epochs', flush=True)
        net = train_baseline(cohort, train, test, body(), replace(run, baseline_epochs=epochs), rate).model
        answers[name] = baseline_submission(net, cohort, test)
    table = priors.loc[PLACES].to_numpy()
    learned,given = (cohort_crops(cohort.keep(i), 2) for i in (train,test))
    discs,found = found_crops(cohort.keep(test), packaged_segmenter(), packaged_finder())
    everything = {g: slice(None) for g in GROUPS}
    nudge,shift,lost = dict(severity.NUDGE), severity.varied.__defaults__, severity.LOST
    nets = {}
    def rung(name, kind, slices, exact):
        severity.NUDGE,severity.LOST = (dict.fromkeys(nudge, 0.),0.) if exact else (nudge,lost)
        severity.varied.__defaults__ = (0.5,) if exact else shift
        mine = only(learned, slices)
        if kind not in nets:
            mine,watch = mine[mine.shown.any(1)], only(given, slices)
            few = replace(run, grader_epochs=1)
            epochs = in_time(minutes, name, lambda: grader_learner(mine[np.arange(len(mine)//8)], watch[np.arange(24)], table, few), len(mine)//8//run.grader_batch)/8
            nets[kind] = teach_grader(mine, watch, table, replace(run, grader_epochs=max(round(epochs), 1)), work/kind), replace(run, grader_epochs=max(round(epochs), 1))
        return nets[kind][0]
    def answer(net, crops, slices):
        crops = only(crops, slices)
        return place_submission(crops.places, calibrated(grader_logits(net, CropSet(crops))[0], place_numbers(crops.places), severity.AS_IT_IS), priors)
    net = rung('crops, one slice', 'one', ONE, True)
    answers['crops at given coordinates, one slice'] = answer(net, given, ONE)
    answers['the same, at places found from the discs'] = answer(net, discs, ONE)
    answers['the same, after the second look'] = answer(net, found, ONE)
    net = rung('errors of the search while training', 'one-off', OWN, False)
    answers['slices weighed by attention, errors of the search while training'] = answer(net, found, OWN)
    net = rung('both views', 'views', everything, False)
    answers['both views'] = answer(net, found, everything)
    several = replace(nets['views'][1], grader_folds=4)
    logits = fold_answers(learned, table, several, work/'folds', keep=(fold_nets := []))
    number = place_numbers(learned.places)
    bent = fit_calibration(logits, number, targets(learned.places))
    mean = lambda nets,*views: np.mean([calibrated(grader_logits(n, CropSet(c))[0], place_numbers(c.places), bent) for n in nets for c in views], 0)
    answers['calibrated on folds'] = place_submission(found.places, mean([net], found), priors)
    answers['canals also seen in a mirror'] = place_submission(found.places, mean([net], found, mirror_canals(found)), priors)
    answers['the four folds together'] = place_submission(found.places, mean(fold_nets, found, mirror_canals(found)), priors)
    answers['the same, at given coordinates'] = place_submission(given.places, mean(fold_nets, given, mirror_canals(given)), priors)
    truth = pd.read_csv(folder/'rsna/truth.csv')
    answers['oracle'] = oracle_submission(truth[truth.study_id.isin(test)])
    print(f'\n{len(train)} phantom studies learned from by their labels, {len(test)} graded; {minutes} minutes of training a rung with {torch.get_num_threads()} threads; lower is better\n')
    print(steps(answers, labels))
    away = taken_away(found)
    print(f'\nThe packaged grader on the same studies; steps are from its first row\n\n{steps(away, labels, next(iter(away)))}')

if __name__=='__main__':
    p = argparse.ArgumentParser(); p.add_argument('--studies', type=int, default=180); p.add_argument('--minutes', type=float, default=4); p.add_argument('--folder')
    a = p.parse_args(); main(a.studies, a.minutes, a.folder)
