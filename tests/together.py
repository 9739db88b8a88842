"What tests/test_processes.py launches: both trainings on a few pictures, alone or in several processes, perhaps with one that dies."
import os,signal,sys
from dataclasses import replace
from pathlib import Path
import numpy as np
import pandas as pd
import torch
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import SGD
from lumbar_nbdev import severity
from lumbar_nbdev.core import *
from lumbar_nbdev.crops import SIDE,SLICES,Crops
from lumbar_nbdev.processes import batch_loader,heed_the_end
from lumbar_nbdev.segmentation import Checkpoint,fit_on,teach
from lumbar_nbdev.severity import LookCB,teach_grader
from lumbar_nbdev.unet import Unet,create_encoder

def circles(n, seed):
    "Crops of noise around a circle whose size tells the grade."
    rng = np.random.default_rng(seed)
    grade = rng.integers(0, 3, n)
    r,c = np.indices((SIDE,SIDE))-(SIDE-1)/2
    circle = np.hypot(r, c)<(4+8*grade)[:,None,None]
    pictures = rng.integers(0, 60, (n,SLICES,SIDE,SIDE), dtype=np.uint8)+(150*circle).astype(np.uint8)[:,None]
    places = [PLACES[k] for k in rng.integers(0, 25, n)]
    return Crops(pictures, rng.normal(0, 5, (n,SLICES)).astype(np.float32), np.ones((n,SLICES), bool), pd.DataFrame(places, columns=['condition','level']).assign(study_id=np.arange(n), severity=grade))

def boxes(n, seed):
    "Pictures of bright boxes, and their masks."
    rng,out = np.random.default_rng(seed), []
    for _ in range(n):
        x,y = rng.integers(0, 60, (1,96,96), dtype=np.uint8), np.zeros((96,96), np.uint8)
        for part,(r,c) in enumerate(rng.integers(5, 60, (3,2)), 1): x[0,r:r+25,c:c+25] = 70*part; y[r:r+25,c:c+25] = part
        out.append((x,y))
    return out

class Lines:
    "Points of a line; a whole batch is the whole line."
    def __len__(self): return 64
    def batch(self, rows): x = torch.tensor(rows)[:,None]/64; return x, 3*x+1

def fit_line(out):
    "A training without chance: each step sees every point."
    net = torch.nn.Linear(1,1); torch.nn.init.constant_(net.weight, 0); torch.nn.init.constant_(net.bias, 0)
    dls = DataLoaders(batch_loader(Lines(), 64, True), batch_loader(Lines(), 64), device=torch.device('cpu'))
    fit_on(Learner(dls, net, torch.nn.functional.mse_loss, opt_func=SGD, cbs=Checkpoint(out, 1)), 8, .5)

def main(out, dies=-1):
    torch.set_num_threads(1)
    run = replace(settings('quick'), grader_epochs=3, grader_batch=12, segmenter_epochs=1, segmenter_size=96, segmenter_batch=4)
    if rank()==1 and dies>=0: # the second process is killed at the start of an epoch
        def die(self):
            if self.epoch==dies: os.kill(os.getpid(), signal.SIGKILL)
        LookCB.before_epoch = die
    severity.LONG = 1 # the full rate: circles are easy
    fit_line(out/'line')
    teach_grader(circles(144, 0), circles(36, 1), np.full((25,3), 1/3), run, out/'grader')
    torch.manual_seed(0)
    teach(Unet(create_encoder(run.encoder, features_only=True), 4), boxes(24, 0), boxes(6, 1), run, out/'segmenter', 'boxes')

if __name__=='__main__':
    heed_the_end()
    try: main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
    except LumbarError as e: sys.exit(f'lumbar: {e}')
