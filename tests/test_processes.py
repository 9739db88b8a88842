"Two processes share a training, and the grading of a folder."
import os,subprocess,sys
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
import together
from helpers import *
from lumbar_nbdev.cohort import Cohort
from lumbar_nbdev.phantom import write_cohort
from lumbar_nbdev.scale import predict_folder

def launch(*words):
    "Two processes on this machine, without graphics cards."
    env = os.environ|dict(OMP_NUM_THREADS='1')
    return subprocess.run([sys.executable,'-m','accelerate.commands.launch','--multi_gpu','--num_processes','2','--num_machines','1','--mixed_precision','no','--dynamo_backend','no','--main_process_port','0',*map(str, words)], capture_output=True, text=True, env=env, cwd=Path(__file__).parent, timeout=400)

def figures(folder, kind): return pd.read_csv(folder/kind/'training.csv')

@pytest.fixture(scope='module')
def shared_run(tmp_path_factory):
    out = tmp_path_factory.mktemp('together')
    done = launch('together.py', out)
    assert done.returncode==0, done.stderr[-3000:]
    return out

def test_two_processes_train_as_well_as_one(shared_run, tmp_path):
    together.main(tmp_path)
    both = lambda kind: [figures(p, kind) for p in (tmp_path,shared_run)]
    np.testing.assert_allclose(*(f.valid_loss for f in both('line')), atol=1e-5) # without chance, the very same
    for kind,what,near in (('grader',['valid_loss'],.15),('segmenter',['vertebra','canal','disc'],.15)): # other variations, other batch statistics
        one,two = (f[what].mean(axis=1) for f in both(kind))
        print(kind, what, 'alone', one.round(3).tolist(), 'two processes', two.round(3).tolist())
        assert len(one)==len(two) and abs(one.iloc[-1]-two.iloc[-1])<near
    assert figures(shared_run, 'grader').valid_loss.iloc[-1]<.6, "nothing was learned"

def test_killed_process_ends_the_training_with_a_sentence_and_it_goes_on(shared_run, tmp_path):
    done = launch('together.py', tmp_path, 1)
    assert done.returncode!=0
    assert 'lumbar: another process of this run has ended' in done.stderr and 'run the same command again' in done.stderr
    assert len(figures(tmp_path, 'grader'))==1, "it was killed too late to test anything"
    done = launch('together.py', tmp_path)
    assert done.returncode==0, done.stderr[-3000:]
    assert done.stdout.count('going on from epoch 1 of 3')==1
    np.testing.assert_allclose(figures(tmp_path, 'grader'), figures(shared_run, 'grader'), atol=1e-3)

def test_two_processes_grade_the_same_bytes(tmp_path):
    rsna = write_cohort(tmp_path/'cohort', 3, 5, 2)/'rsna'
    done = launch('-m', 'lumbar_nbdev.cli', 'predict', rsna, '--out', tmp_path/'two', '--profile', 'quick')
    assert done.returncode==0, done.stderr[-3000:]
    assert done.stdout.count('submission.csv')==1
    predict_folder(Cohort(rsna), tmp_path/'one', settings('quick'))
    assert (tmp_path/'one/submission.csv').read_bytes()==(tmp_path/'two/submission.csv').read_bytes()
    assert sorted(p.name for p in (tmp_path/'two').iterdir())==['report','submission.csv']
    assert len(list((tmp_path/'two/report/studies').iterdir()))==3

def test_only_what_can_be_shared_is_launched_together(tmp_path):
    done = launch('-m', 'lumbar_nbdev.cli', 'check', tmp_path)
    assert done.returncode!=0 and 'several processes where one is wanted' in done.stderr
