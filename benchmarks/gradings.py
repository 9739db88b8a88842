"""SPIDER's disc gradings by the grader, cross-validated by patient: Pfirrmann, narrowing, bulging. Real scans.

    python benchmarks/gradings.py [SPIDER] [--epochs 15] [--seeds 2] [--from photographs|phantoms]

Discs are found and named by the packaged segmenter. Prints kappa, the shares of exact and near grades, and the areas under the curves, with 95 % intervals over patients; then readers against grader.
"""
import argparse,os
os.environ.setdefault('OMP_NUM_THREADS', '2'); os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
from dataclasses import replace
import numpy as np
import pandas as pd
from lumbar_nbdev.core import *
from lumbar_nbdev.gradings import LABELS,SLOTS,cross_validated_gradings,disc_crops,fold_calls,grading_figures
from lumbar_nbdev.levels import packaged_segmenter
from lumbar_nbdev.severity import packaged_grader
from lumbar_nbdev.spider import SpiderSet

def interval(chances, places, called, draws=300):
    "95 % intervals of the figures over patients."
    rng,rows = np.random.default_rng(0), places.groupby('patient').indices
    ids,out = list(rows), []
    for _ in range(draws):
        pick = np.concatenate([rows[i] for i in rng.choice(ids, len(ids))])
        out.append(grading_figures({k: p[pick] for k,p in chances.items()}, places.iloc[pick], called[pick]))
    return pd.DataFrame(out).quantile([.025,.975])

def main(spider, epochs, seeds, begin):
    data = SpiderSet(spider)
    crops = disc_crops(data, data.patients, packaged_segmenter())
    graded = data.gradings[data.gradings.patient.isin(data.patients)]
    print(f'{len(crops)} of {len(graded)} graded discs of {len(data.patients)} patients found', flush=True)
    weights = packaged_grader().net.state_dict() if begin=='phantoms' else None
    chances = []
    for seed in range(seeds):
        chances.append(cross_validated_gradings(crops, replace(settings('cpu'), grader_epochs=epochs, seed=seed), weights=weights))
        print(f'seed {seed}', grading_figures(chances[-1], crops.places, fold_calls(chances[-1], crops.places)).round(3).to_dict(), flush=True)
    mean = {k: np.mean([c[k] for c in chances], 0) for k in LABELS}
    called,with_t2 = fold_calls(mean, crops.places), crops.shown[:,SLOTS['t2']]
    table = pd.concat([grading_figures(mean, crops.places, called).to_frame('mean of the seeds').T, interval(mean, crops.places, called), grading_figures(mean, crops.places).to_frame('expected grades rounded').T,
                       grading_figures({k: p[with_t2] for k,p in mean.items()}, crops.places[with_t2], called[with_t2]).to_frame('discs with a T2 slice').T])
    print(f'\n{table.round(3).to_string()}\n\nAims: kappa 0.75, narrowing 0.92')
    print(pd.crosstab(crops.places.pfirrmann, called, rownames=['reader'], colnames=['grader']).to_string())

if __name__=='__main__':
    p = argparse.ArgumentParser(); p.add_argument('spider', nargs='?'); p.add_argument('--epochs', type=int, default=15); p.add_argument('--seeds', type=int, default=2); p.add_argument('--from', dest='begin', choices=['photographs','phantoms'], default='photographs')
    a = p.parse_args()
    if a.spider: main(a.spider, a.epochs, a.seeds, a.begin)
    else: print('no gradings without real scans: give a SPIDER folder with radiological_gradings.csv')
