"""How fast phantom studies are made: stages of one process, and studies a minute with one and two.

    python benchmarks/phantom.py [--studies 12]
"""
import argparse,os,tempfile,time
from collections import defaultdict
from pathlib import Path
os.environ.setdefault('OMP_NUM_THREADS', '1')
from lumbar_nbdev import phantom
from lumbar_nbdev.phantom import Canvas,write_cohort

SPENT = defaultdict(float)

def timed(owner, name, stage):
    "Count the processor's time that a function takes, without that of the timed ones it calls."
    work = getattr(owner, name)
    def run(*args, **kwargs):
        before,start = sum(SPENT.values()), time.process_time()
        out = work(*args, **kwargs)
        SPENT[stage] += time.process_time()-start-(sum(SPENT.values())-before)
        return out
    setattr(owner, name, run)

def main(studies):
    with tempfile.TemporaryDirectory() as folder:
        rate = {}
        for workers in (1,2):
            start = time.perf_counter()
            write_cohort(Path(folder)/f'w{workers}', studies, 5, workers)
            rate[workers] = 60*studies/(time.perf_counter()-start)
        for owner,name,stage in ((Canvas,'paint_all','paint structures'), (Canvas,'__init__','coordinates'), (Canvas,'k_space','k-space'), (phantom,'acquire','acquire'), (phantom,'write_dicom','write DICOM'), (phantom,'write_spider','write MHA')): timed(owner, name, stage)
        start = time.process_time(); write_cohort(Path(folder)/'stages', studies, 5); whole = time.process_time()-start
    print(f"{'stage':<20}{'s a study':>12}{'share':>8}")
    for stage,s in sorted((SPENT|{'the rest': whole-sum(SPENT.values())}).items(), key=lambda o: -o[1]): print(f"{stage:<20}{s/studies:>12.2f}{s/whole:>8.0%}")
    print(f"{'all':<20}{whole/studies:>12.2f}\n\nstudies a minute: {rate[1]:.1f} with one worker, {rate[2]:.1f} with two (aim: 20 with two)")

if __name__=='__main__':
    p = argparse.ArgumentParser(); p.add_argument('--studies', type=int, default=12)
    main(p.parse_args().studies)
