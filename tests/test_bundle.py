"The offline bundle: complete, and at work where there is no network."
import json,os,subprocess,sys,zipfile
from importlib.metadata import distribution
from pathlib import Path
import pandas as pd
import pytest
from helpers import *
from lumbar_nbdev.metric import sample_rows
from lumbar_nbdev.phantom import write_cohort
from lumbar_nbdev.submission import Predictor,write_bundle,write_wheel

alone = pytest.mark.skipif(subprocess.run(['unshare','-rn','true'], capture_output=True).returncode!=0, reason="this machine allows no network namespace")

@pytest.fixture(scope='module')
def bundle(tmp_path_factory): return write_bundle(tmp_path_factory.mktemp('bundle')/'bundle')

def code_of(bundle): return '\n'.join(''.join(c['source']) for c in json.loads((bundle/'submission.ipynb').read_text())['cells'])

def test_wheel_is_a_wheel(tmp_path):
    path = write_wheel(distribution('pydicom'), tmp_path)
    with zipfile.ZipFile(path) as box:
        names = set(box.namelist())
        record = next(n for n in names if n.endswith('.dist-info/RECORD'))
        assert {line.split(',')[0] for line in box.read(record).decode().splitlines()}==names
    done = subprocess.run([sys.executable,'-m','pip','install','--quiet','--no-index','--no-deps','--target',tmp_path/'to',path], capture_output=True, text=True)
    assert done.returncode==0, done.stderr
    assert (tmp_path/'to/pydicom/__init__.py').exists()

@alone
def test_runs_without_a_network(bundle, tmp_path):
    rsna = write_cohort(tmp_path/'cohort', 2, 13)/'rsna'
    work = tmp_path/'work'; work.mkdir()
    check = "import socket\ntry: socket.create_connection(('1.1.1.1',53), 3); raise SystemExit('there is a network')\nexcept OSError: pass\n"
    end = "\nimport lumbar_nbdev; assert lumbar_nbdev.__file__.startswith(os.path.abspath('packages')), lumbar_nbdev.__file__"
    env = {k: v for k,v in os.environ.items() if k not in ('PYTHONPATH','LUMBAR_SETTINGS','LUMBAR_PROFILE')} | dict(BUNDLE=str(bundle), RSNA=str(rsna), HOME=str(tmp_path))
    done = subprocess.run(['unshare','-rn',sys.executable,'-c',check+code_of(bundle)+end], cwd=work, env=env, capture_output=True, text=True)
    assert done.returncode==0, done.stderr[-2000:]
    sent,wanted = pd.read_csv(work/'submission.csv'), sample_rows([int(p.name) for p in (rsna/'train_images').iterdir()])
    assert sent.row_id.tolist()==wanted.row_id.tolist()

def test_refuses_models_without_a_grader(tmp_path):
    with pytest.raises(ModelError): write_bundle(tmp_path/'bundle', tmp_path)
    assert not (tmp_path/'bundle').exists()

def test_the_copied_packaged_grader_still_says_what_it_has_seen(bundle):
    assert any('phantoms only' in r for r in Predictor(settings('quick'), bundle/'models').remarks)

def test_refuses_a_full_folder(tmp_path):
    (tmp_path/'a').touch()
    with pytest.raises(InputError): write_bundle(tmp_path)
