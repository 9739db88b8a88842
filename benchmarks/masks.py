"""How near the segmenter comes to real masks, cross-validated by patient, counted in three ways. Real scans.

    python benchmarks/masks.py [SPIDER]

A patient's Dice is the mean over its series; structures that the mask does not have are left out. Small is what fills less than one square centimetre of a series' masks, half a disc.
Pooled is the Dice of all pixels of all patients together, in which a slice through the middle counts more than one at the side.
"""
import argparse,os,tempfile
os.environ.setdefault('OMP_NUM_THREADS', '2'); os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
from dataclasses import replace
from pathlib import Path
import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold
from lumbar_nbdev.core import *
from lumbar_nbdev.segmentation import fit_segmenter,some_phantoms
from lumbar_nbdev.segmenter import CLASSES,class_mask,packaged_segmenter
from lumbar_nbdev.spider import SpiderSet,parse_stem

def counts(segmenter, data, stems):
    "Pixels of each structure in each series: found, true, and both; and the true ones in mm²."
    for stem,image,mask in data.pairs(stems):
        found,true = segmenter.classes(image).data,class_mask(mask.data)
        for k,c in enumerate(CLASSES):
            if k and (true==k).any(): yield dict(patient=parse_stem(stem)[0], part=c, found=(found==k).sum(), true=(true==k).sum(), both=((found==k)&(true==k)).sum(), mm2=(true==k).sum()*np.prod(image.spacing[1:]))

def figures(table):
    "Dice of each structure, counted in three ways."
    table = table.assign(dice=2*table.both/(table.found+table.true))
    mean = lambda t: t.groupby(['part','patient']).dice.mean().groupby('part').mean()
    whole = table.groupby('part')[['found','true','both']].sum()
    return pd.DataFrame({'mean over patients': mean(table), 'without the small': mean(table[table.mm2>=100]), 'pooled': 2*whole.both/(whole.found+whole.true), 'patients': table.groupby('part').patient.nunique(), 'small': table[table.mm2<100].groupby('part').patient.nunique()}).fillna(0).loc[list(CLASSES[1:])].T

def main(spider):
    data,run = SpiderSet(spider), replace(settings('cpu'), workers=2)
    usable,phantoms = data.series[data.series.has_mask], some_phantoms(run)
    print(f"phantoms only\n{figures(pd.DataFrame(counts(packaged_segmenter('phantom'), data, usable.stem))).round(3).to_string()}", flush=True)
    table = []
    for hands in GroupKFold(5, shuffle=True, random_state=run.seed).split(usable, groups=usable.patient):
        stems = tuple(usable.stem.iloc[i].tolist() for i in hands)
        segmenter,_ = fit_segmenter(data, stems, run, Path(tempfile.mkdtemp()), phantoms=phantoms)
        table += counts(segmenter, data, stems[1])
    print(f"\nphantoms, then real slices, cross-validated\n{figures(pd.DataFrame(table)).round(3).to_string()}\n\nAims, mean over patients: vertebra 0.91, canal 0.92, disc 0.88; phantoms only, mean of the three 0.82")

if __name__=='__main__':
    p = argparse.ArgumentParser(); p.add_argument('spider', nargs='?')
    a = p.parse_args()
    if a.spider: main(a.spider)
    else: print('no masks without real scans: give a SPIDER folder')
