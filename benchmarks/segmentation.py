"""Time to Dice: our segmenter's training beside its peers', on the same slices, with the same loss and the same variations, on the same two cores, in turns.

    python benchmarks/segmentation.py [--spider DIR] [--minutes 9] [--patients 40]

Every network has its own clock, which runs only while it trains: half a minute each, round after round. Each turn begins from the same seed for all.
Encoders whose ImageNet weights cannot be had without a network begin at random, and the table says so.
"""
import argparse,math,os,time
os.environ.setdefault('OMP_NUM_THREADS', '2'); os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
import numpy as np
import torch
from fastai.torch_core import set_seed
from lumbar_nbdev.core import settings
from lumbar_nbdev.segmentation import SegmentationLoss,new_network,phantom_pictures,segmenter_dls,series_pictures
from lumbar_nbdev.segmenter import CLASSES,PARTS
from lumbar_nbdev.spider import SpiderSet
from lumbar_nbdev.unet import ENCODER,create_encoder,dice

TURN = 30. # seconds of training a turn
RATES = {True: 2.5e-3, False: 1e-3} # highest learning rate: with an encoder that knows ImageNet, the segmenter's own; from random weights Adam's usual one

def fastai_resnet34():
    "What `unet_learner(dls, resnet34)` trains, without its ImageNet weights."
    from fastai.vision.all import create_unet_model,resnet34
    return create_unet_model(resnet34, len(PARTS), (256,256), pretrained=False)

def smp_unet(encoder):
    import segmentation_models_pytorch as smp
    net = smp.Unet(encoder, encoder_weights=None, in_channels=3, classes=len(PARTS))
    if encoder.endswith(ENCODER): # the same ImageNet weights as ours
        own = create_encoder(ENCODER, features_only=True).state_dict()
        missing = net.encoder.model.load_state_dict(own, strict=False)
        assert not missing.missing_keys, missing.missing_keys[:3]
    return net

def monai_unet():
    from monai.networks.nets import UNet
    return UNet(spatial_dims=2, in_channels=3, out_channels=len(PARTS), channels=(16,32,64,128,256), strides=(2,2,2,2), num_res_units=2)

def monai_basic():
    from monai.networks.nets import BasicUNet
    return BasicUNet(spatial_dims=2, in_channels=3, out_channels=len(PARTS))

NETS = {'ours (ImageNet)': lambda: new_network(ENCODER), 'fastai unet_learner, resnet34 (random)': fastai_resnet34, 'smp Unet, resnet34 (random)': lambda: smp_unet('resnet34'),
        'smp Unet, our encoder (ImageNet)': lambda: smp_unet(f'tu-{ENCODER}'), 'MONAI UNet': monai_unet, 'MONAI BasicUNet': monai_basic}

class Run:
    "One network in training, with a clock of its own."
    def __init__(self, name, train, valid, minutes):
        set_seed(1)
        self.name,self.net,self.valid,self.whole,self.clock,self.steps,self.curve = name,NETS[name](),valid,60*minutes,0.,0,[]
        self.ours = name.startswith('ours')
        self.opt = torch.optim.AdamW(self.net.parameters(), lr=RATES['ImageNet' in name], weight_decay=.01)
        self.highest = self.opt.param_groups[0]['lr']
        self.dls = segmenter_dls(train, valid, 256, 8); self.batches = iter(self.dls.train)
        self.brightness = (.5,.5) if 'our encoder' in name else (.45,.225) # mean and spread its encoder was trained with
        self.spent = dict(batch=0., forward=0., backward=0.)

    def batch(self):
        try: return next(self.batches)
        except StopIteration: self.batches = iter(self.dls.train); return next(self.batches)

    def seen(self, x): return x if self.ours else (x.expand(-1,3,-1,-1)-self.brightness[0])/self.brightness[1]

    def step(self):
        a = time.perf_counter(); x,y = (torch.Tensor(v) for v in self.batch())
        b = time.perf_counter(); loss = SegmentationLoss()(self.net(self.seen(x)), y.long())
        c = time.perf_counter(); self.opt.zero_grad(); loss.backward(); self.opt.step()
        d = time.perf_counter()
        for k,s in zip(self.spent, (b-a,c-b,d-c)): self.spent[k] += s
        self.clock += d-a; self.steps += 1
        done = min(self.clock/self.whole, 1)
        for g in self.opt.param_groups: g['lr'] = self.highest*min(1, self.steps/20)*(1+math.cos(math.pi*done))/2+1e-6

    def turn(self):
        set_seed(len(self.curve)); self.net.train(); end = min(self.clock+TURN, self.whole)
        while self.clock<end: self.step()
        self.curve.append((self.clock/60, self.dice()))

    def dice(self):
        "Mean of the three classes over all held-out slices together."
        self.net.eval()
        with torch.inference_mode(): found = torch.cat([self.net(self.seen(torch.from_numpy(x)[None].float()/255)).argmax(1) for x,_ in self.valid]).clamp(max=3)
        truth = torch.from_numpy(np.stack([y for _,y in self.valid])).clamp(max=3)
        return float(np.nanmean([dice(found, truth, k) for k in range(1,len(CLASSES))]))

def at(curve, minutes): return max(((t,d) for t,d in curve if t<=minutes+.02), default=(0,math.nan))[1]
def until(curve, dice): return next((t for t,d in curve if d>=dice), math.inf)

def main(spider, minutes, patients):
    run = settings('cpu')
    if spider:
        data = SpiderSet(spider); stems = data.split(.25, run.seed)
        train,valid = (series_pictures(data, s, run, run.seed) for s in stems)
    else: train,valid = phantom_pictures(range(patients), 3, 4, workers=2), phantom_pictures(range(500,508), 3, 3, workers=2)
    print(f"{len(train)} slices to learn from and {len(valid)} of other patients to judge, {'SPIDER' if spider else 'phantoms'}; {torch.get_num_threads()} threads, windows of 256 pixels, batches of 8\n", flush=True)
    runs = []
    for n in NETS:
        try: runs.append(Run(n, train, valid, minutes))
        except ImportError as e: print(f'{n}: left out, {e.name} is not installed')
    while any(r.clock<r.whole for r in runs):
        for r in runs:
            if r.clock<r.whole: r.turn()
    print(f"{'':<40}{'M weights':>10}{'steps':>7}{'Dice at '+str(minutes//3):>11}{minutes*2//3:>7}{minutes:>7} min{'min to .80':>12}   ms a step: batch  forward  backward")
    for r in runs:
        ms = [1000*s/r.steps for s in r.spent.values()]
        print(f"{r.name:<40}{sum(p.numel() for p in r.net.parameters())/1e6:>10.1f}{r.steps:>7}{at(r.curve,minutes/3):>11.3f}{at(r.curve,minutes*2/3):>7.3f}{at(r.curve,minutes):>7.3f}{until(r.curve,.8):>16.1f}{ms[0]:>21.0f}{ms[1]:>9.0f}{ms[2]:>10.0f}")
    ours,best = until(runs[0].curve, .8), min((until(r.curve, .8) for r in runs[1:]), default=math.inf)
    said = 'ours did not get there' if math.isinf(ours) else f'only ours got there, in {ours:.1f} minutes of {minutes}' if math.isinf(best) else f'{best/ours:.1f}x'
    print(f"\nAim: to Dice 0.80 at least 3x sooner than the best of the others: {said}")

if __name__=='__main__':
    p = argparse.ArgumentParser(); p.add_argument('--spider'); p.add_argument('--minutes', type=int, default=9); p.add_argument('--patients', type=int, default=40)
    a = p.parse_args(); main(a.spider, a.minutes, a.patients)
