"""Do the neighbouring slices help? One network sees a slice, another the slices on both sides as well (2.5-D); same phantoms, same steps, in turns.

    python benchmarks/neighbours.py [--patients 60] [--steps 400] [--seeds 2]

SPIDER's slices at hand stand alone, so this is measured on phantoms only; the held-out ones come from another seed, a third of them from ordinary machines.
"""
import argparse,os
os.environ.setdefault('OMP_NUM_THREADS', '2'); os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
import numpy as np
import pandas as pd
import torch
from fastai.torch_core import set_seed
from lumbar_nbdev.segmentation import RATE,SegmentationLoss,new_network,phantom_pictures,segmenter_dls
from lumbar_nbdev.segmenter import CLASSES
from lumbar_nbdev.unet import ENCODER,dice

def lessons(pictures, steps, seed):
    "A training in single steps: a generator that yields the network after each hundred of them."
    set_seed(seed*1000)
    net = new_network(ENCODER).train()
    batches = iter(segmenter_dls(pictures, pictures[:1], 256, 8, steps=steps).train)
    opt = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=.01)
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, RATE, total_steps=steps)
    for k in range(1, steps+1):
        if k%100==1: set_seed(seed*1000+k) # the same chances for both, hundred by hundred
        x,y = (torch.Tensor(v) for v in next(batches))
        loss = SegmentationLoss()(net(x), y.long())
        opt.zero_grad(); loss.backward(); opt.step(); plan.step()
        if k%100==0 or k==steps: yield net

def judged(net, held):
    "Dice of each class over all held-out slices together, and over those without a canal, which lie at the side."
    net.eval()
    with torch.inference_mode(): found = torch.cat([net(torch.from_numpy(x)[None].float()/255).argmax(1) for x,_ in held]).clamp(max=3)
    truth = torch.from_numpy(np.stack([y for _,y in held])).clamp(max=3)
    side = ~(truth==2).flatten(1).any(1)
    return {c: dice(found, truth, k) for k,c in enumerate(CLASSES) if k} | {f'{c}, side': dice(found[side], truth[side], k) for k,c in enumerate(CLASSES) if k in (1,3)}

def main(patients, steps, seeds):
    three = phantom_pictures(range(patients), 5, 6, neighbours=True, workers=2), phantom_pictures(range(2000,2016), 6, 6, neighbours=True, workers=2)
    one = [[(x[1:2],y) for x,y in part] for part in three]
    print(f'{len(one[0])} slices of {patients} phantom patients to learn from, {len(one[1])} of 16 others to judge; {steps} steps of 8 windows', flush=True)
    rows = []
    for seed in range(seeds):
        both = [lessons(part[0], steps, seed) for part in (one,three)]
        for nets in zip(*both): pass # a hundred steps of one, a hundred of the other
        rows += [dict(sees=name, seed=seed, **judged(net, part[1])) for name,net,part in zip(('one slice','three slices'), nets, (one,three))]
        print(pd.DataFrame(rows[-2:]).round(3).to_string(index=False), flush=True)
    print(pd.DataFrame(rows).drop(columns='seed').groupby('sees').mean().round(3).to_string())

if __name__=='__main__':
    p = argparse.ArgumentParser(); p.add_argument('--patients', type=int, default=60); p.add_argument('--steps', type=int, default=400); p.add_argument('--seeds', type=int, default=2)
    a = p.parse_args(); main(a.patients, a.steps, a.seeds)
