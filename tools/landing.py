"Draw the picture of the landing page, nbs/images/landing.png, from a synthetic study: scan, masks, places, grades. `python tools/landing.py`"
from pathlib import Path
import matplotlib.pyplot as plt
import numpy as np
from lumbar_nbdev.cohort import Cohort
from lumbar_nbdev.core import *
from lumbar_nbdev.crops import grey_bytes
from lumbar_nbdev.phantom import phantom_cohort
from lumbar_nbdev.report import PARTS,called,graded_places,own_view
from lumbar_nbdev.submission import Predictor

ROOT = Path(__file__).resolve().parent.parent
INK = dict(bone='#e8c468', canal='#5ec8e5', disc='#ff8a75')

def scan(ax, volume, view, title):
    ax.imshow(grey_bytes(volume, *view)[0], cmap='gray', vmin=0, vmax=255); ax.axis('off'); ax.set_title(title, fontsize=13)

def rings(ax, view, marks):
    "The places of one slice."
    at = np.linalg.solve(view[0][:3,:3], (marks[['wx','wy','wz']].to_numpy(float)-view[0][:3,3]).T).T
    for (_,r,c),g in zip(at, marks.grade): ax.plot(c, r, 'o', ms=11, mfc='none', mew=2.4, mec=GRADE_COLOURS[g])

def table(ax, rows):
    "The 25 grades as coloured squares."
    grade = rows.assign(grade=called(rows)).pivot(index='condition', columns='level', values='grade').loc[list(CONDITIONS), list(LEVELS)].to_numpy()
    for i,line in enumerate(grade):
        for j,g in enumerate(line): ax.add_patch(plt.Rectangle((j,4-i), .93, .93, fc=GRADE_COLOURS[g])); ax.text(j+.46, 4.46-i, ('mild','mod.','severe')[g], ha='center', va='center', fontsize=8, color='k' if g<2 else 'w')
        ax.text(-.12, 4.46-i, ('canal','L foramen','R foramen','L recess','R recess')[i], ha='right', va='center', fontsize=9)
    for j,l in enumerate(LEVELS): ax.text(j+.46, 5.1, level_title(l), ha='center', fontsize=9)
    ax.set(xlim=(-1.6,5), ylim=(-.4,5.5), aspect='equal'); ax.axis('off'); ax.set_title('25 grades', fontsize=13)

def main(study=3):
    cohort = Cohort(phantom_cohort(6, seed=7)/'rsna')
    r = Predictor(settings('quick'))(cohort, cohort.studies[study])
    marks = graded_places(r); canal = marks[marks.condition=='spinal_canal_stenosis']
    view = own_view(r.seen, canal[['wx','wy','wz']].to_numpy(float).mean(0), (190,120))
    fig,axs = plt.subplots(1, 4, figsize=(13,4.6), dpi=75, gridspec_kw=dict(width_ratios=(1,1,1,1.75)), layout='constrained')
    for ax,t in zip(axs, ('scan','masks','places')): scan(ax, r.seen, view, t)
    labels = r.mask.resample(*view, order=0).data[0]
    for k,(a,b) in PARTS.items():
        inside = (labels>=a)&(labels<b)
        axs[1].contourf(inside, [.5,1.5], colors=[INK[k]], alpha=.45); axs[1].contour(inside, [.5], colors=[INK[k]], linewidths=1.2)
    rings(axs[2], view, canal); table(axs[3], r.rows)
    (ROOT/'nbs/images').mkdir(exist_ok=True)
    fig.savefig(ROOT/'nbs/images/landing.png')

if __name__=='__main__': main()
