"The command as a user meets it: exit status, one line for a mistake, nothing half-written."
import json,os,shutil,subprocess,sys
from pathlib import Path
import pandas as pd
import pytest
from lumbar_nbdev.cli import main
from lumbar_nbdev.core import CONDITIONS,LEVELS,SUBMISSION_COLUMNS,InputError,atomic_path
from lumbar_nbdev.phantom import phantom_cohort,write_cohort

DATA = Path(__file__).resolve().parents[2]/'shared'/'data'
real = pytest.mark.skipif(not DATA.exists(), reason="no real images beside the project (../shared/data)")

@pytest.fixture(scope='session')
def cohort(): return phantom_cohort(6, seed=7)

@pytest.fixture
def no_models(tmp_path, monkeypatch):
    "Settings whose model folder is empty."
    ini = Path(__file__).resolve().parents[1]/'settings.ini'
    (tmp_path/'settings.ini').write_text(ini.read_text().replace('~/.lumbar/models', str(tmp_path/'none')))
    monkeypatch.setenv('LUMBAR_SETTINGS', str(tmp_path/'settings.ini'))

def run(capsys, *words):
    "Exit status, standard output and standard error of `lumbar WORDS`."
    status = main([str(w) for w in words])
    return status, *capsys.readouterr()

def refused(capsys, text, *words):
    "The command must refuse with one line that holds `text`."
    status,_,err = run(capsys, *words)
    lines = [l for l in err.splitlines() if l.startswith('lumbar: ')]
    assert status==2 and len(lines)==1 and 'Traceback' not in err and text in lines[0], err

def check_submission(path, studies):
    table = pd.read_csv(path)
    p = table[list(SUBMISSION_COLUMNS)].to_numpy()
    assert len(table)==25*studies and table.row_id.is_unique
    assert (p>=0).all() and abs(p.sum(1)-1).max()<1e-6
    return table

def test_help_is_quick_and_complete():
    out = subprocess.run([sys.executable,'-m','lumbar_nbdev.cli','--help'], capture_output=True, text=True, check=True).stdout
    for word in ('phantom','fetch','check','train','segment','discs','predict','score','bundle','app'): assert f'\n    {word} ' in out

@pytest.mark.parametrize('words', [['predict'], ['nonsense'], ['train','grader'], ['phantom','X','--studies','many'], []])
def test_wrong_words(words, capsys): refused(capsys, 'lumbar', *words)

def test_missing_and_empty_folders(tmp_path, capsys):
    for f in (tmp_path/'none', tmp_path):
        refused(capsys, str(f), 'predict', f, '--out', tmp_path/'out')
        refused(capsys, str(f), 'check', f)
        refused(capsys, str(f), 'train', 'segmenter', '--spider', f, '--out', tmp_path/'m')
        refused(capsys, str(f), 'train', 'grader', '--rsna', f, '--out', tmp_path/'m')
        refused(capsys, str(f), 'discs', f, '--out', tmp_path/'d')
    assert not list(tmp_path.iterdir())

def test_discs_of_a_cohort(cohort, tmp_path, capsys):
    from lumbar_nbdev.cohort import Cohort
    part = tmp_path/'rsna'; studies = Cohort(cohort/'rsna', 'train').studies[:2]
    shutil.copytree(cohort/'rsna', part)
    for f in ('train.csv','train_label_coordinates.csv','train_series_descriptions.csv'):
        t = pd.read_csv(part/f); t[t.study_id.isin(studies)].to_csv(part/f, index=False)
    status,out,_ = run(capsys, 'discs', part, '--out', tmp_path/'out')
    table = pd.read_csv(tmp_path/'out'/'discs.csv')
    assert status==0 and f'2 masks and discs.csv with {len(table)} discs' in out and len(table)>=8
    assert sorted(p.name for p in (tmp_path/'out').iterdir())==sorted(['discs.csv',*(f'{s}.mha' for s in studies)])

def test_a_mask_never_replaces_its_scan(cohort, tmp_path, capsys):
    scan = tmp_path/'scan.mha'; shutil.copy(next((cohort/'spider'/'images').glob('*.mha')), scan); before = scan.read_bytes()
    refused(capsys, 'its own scan', 'segment', scan, '--out', tmp_path/'.'/'scan.mha')
    assert scan.read_bytes()==before

def test_phantom_is_repeatable(tmp_path):
    a,b = write_cohort(tmp_path/'a', 2, 5, workers=1),write_cohort(tmp_path/'b', 2, 5, workers=2)
    files = sorted(p.relative_to(a) for p in a.rglob('*') if p.is_file())
    assert files==sorted(p.relative_to(b) for p in b.rglob('*') if p.is_file()) and len(files)>50
    for f in files: assert (a/f).read_bytes()==(b/f).read_bytes(), f

def test_phantom_has_the_competition_columns(cohort):
    columns = lambda name: list(pd.read_csv(cohort/'rsna'/name, nrows=0).columns)
    assert columns('train.csv')==['study_id']+[f'{c}_{l}' for c in CONDITIONS for l in LEVELS]
    assert columns('train_series_descriptions.csv')==columns('test_series_descriptions.csv')==['study_id','series_id','series_description']
    assert columns('train_label_coordinates.csv')==['study_id','series_id','instance_number','condition','level','x','y']
    assert columns('sample_submission.csv')==['row_id','normal_mild','moderate','severe']

def test_phantom_keeps_what_is_there(tmp_path, capsys):
    (tmp_path/'mine.txt').write_text('mine')
    refused(capsys, 'not empty', 'phantom', tmp_path, '--studies', 1)
    assert (tmp_path/'mine.txt').read_text()=='mine'

def test_score_of_the_sample_submission(cohort, capsys):
    status,out,_ = run(capsys, 'score', cohort/'rsna/sample_submission.csv', cohort/'rsna/train.csv', '--json')
    terms = json.loads(out)
    assert status==0 and all(abs(terms[k]-1.0986)<1e-3 for k in ('spinal','foraminal','subarticular'))

def test_score_refuses(cohort, tmp_path, capsys):
    sample,labels = pd.read_csv(cohort/'rsna/sample_submission.csv'), cohort/'rsna/train.csv'
    for name,table in dict(gap=sample.iloc[1:], doubled=pd.concat([sample,sample[:1]]), column=sample.drop(columns='severe'), negative=sample.assign(severe=-1.)).items():
        table.to_csv(tmp_path/f'{name}.csv', index=False)
        refused(capsys, '', 'score', tmp_path/f'{name}.csv', labels)

def test_predict_without_models_uses_the_packaged_ones(cohort, tmp_path, capsys, no_models):
    status,out,err = run(capsys, 'predict', cohort/'rsna', '--out', tmp_path/'out')
    assert status==0
    check_submission(tmp_path/'out/submission.csv', 6)
    page = (tmp_path/'out/report/index.html').read_text()
    assert 'phantoms only, no real scan' in page and 'no medical device' in page

def test_predict_with_a_foreign_model(cohort, tmp_path, capsys):
    refused(capsys, 'model', 'predict', cohort/'rsna', '--out', tmp_path/'out', '--models', tmp_path)
    for kind in ('segmenter','grader'): (tmp_path/f'{kind}.json').write_text('{"kind": "cat"}'); (tmp_path/f'{kind}.safetensors').write_bytes(b'nope')
    refused(capsys, 'model', 'predict', cohort/'rsna', '--out', tmp_path/'out', '--models', tmp_path)
    assert not (tmp_path/'out').exists()

def test_one_bad_study_does_not_stop_the_others(tmp_path, capsys, no_models):
    root = write_cohort(tmp_path/'c', 3, 9)/'rsna'
    studies = sorted(root.glob('train_images/*'))
    for f in studies[0].rglob('*.dcm'): f.write_bytes(b'not DICOM')
    slices = sorted(studies[1].rglob('*.dcm')); slices[0].write_bytes(slices[0].read_bytes()[:900])
    assert run(capsys, 'predict', root, '--out', tmp_path/'out')[0]==0
    check_submission(tmp_path/'out/submission.csv', 3)
    page = (tmp_path/'out/report/index.html').read_text()
    assert slices[0].name in page and studies[0].name in page

@pytest.mark.parametrize('change,text', [
    (lambda t: t.drop(columns='level'), 'level'), (lambda t: t.assign(condition='Gout'), 'Gout'), (lambda t: t.assign(level='L9/S1'), 'L9/S1')])
def test_bad_coordinates(tmp_path, capsys, change, text):
    root = write_cohort(tmp_path/'c', 1, 3)/'rsna'
    table = pd.read_csv(root/'train_label_coordinates.csv'); change(table).to_csv(root/'train_label_coordinates.csv', index=False)
    refused(capsys, text, 'train', 'grader', '--rsna', root, '--out', tmp_path/'m')
    assert not (tmp_path/'m').exists()

def test_bad_grade(tmp_path, capsys):
    root = write_cohort(tmp_path/'c', 1, 3)/'rsna'
    table = pd.read_csv(root/'train.csv'); table.iloc[:,1] = 'Awful'; table.to_csv(root/'train.csv', index=False)
    refused(capsys, 'Awful', 'train', 'grader', '--rsna', root, '--out', tmp_path/'m')

def test_a_seed_below_0(tmp_path, capsys): refused(capsys, 'seed', 'phantom', tmp_path/'p', '--seed', '-1')

def test_a_folder_that_may_not_be_read(tmp_path, capsys, monkeypatch):
    def no(*a, **k): raise PermissionError(13, 'Permission denied', str(tmp_path))
    monkeypatch.setattr('lumbar_nbdev.phantom.write_cohort', no)
    refused(capsys, 'not allowed', 'phantom', tmp_path/'p')

def test_a_folder_is_replaced_whole(tmp_path):
    (tmp_path/'file').touch(); there = lambda: ([p.name for p in (tmp_path/'d').iterdir()], sorted(p.name for p in tmp_path.iterdir()))
    with pytest.raises(InputError), atomic_path(tmp_path/'file'/'x'/'y') as tmp: tmp.touch()
    for i in '01':
        with atomic_path(tmp_path/'d') as tmp: tmp.mkdir(); (tmp/i).touch()
    assert there()==(['1'],['d','file'])
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path/'d') as tmp: tmp.mkdir(); raise KeyboardInterrupt
    assert there()==(['1'],['d','file'])

def test_full_disk(cohort, tmp_path):
    "A file-size limit stands in for a full disk: the command must say so and leave nothing behind."
    code = "import errno,lumbar_nbdev.cli as c,pandas as pd\ndef full(*a,**k): raise OSError(errno.ENOSPC,'No space left on device')\npd.DataFrame.to_csv=full\nimport sys;sys.exit(c.main(sys.argv[1:]))"
    done = subprocess.run([sys.executable,'-c',code,'phantom',str(tmp_path/'p'),'--studies','1'], capture_output=True, text=True)
    assert done.returncode==2 and 'disk is full' in done.stderr and 'Traceback' not in done.stderr
    assert not list(tmp_path.iterdir())

def test_wrong_setting(tmp_path, capsys, monkeypatch):
    ini = (Path(__file__).resolve().parents[1]/'settings.ini').read_text()
    for change,text in (('[quick]\nspeed = 3','speed'), ('[quick]\nholdout = 7','holdout'), ('[quick]\ndevice = abacus','device')):
        (tmp_path/'s.ini').write_text(ini.replace('[quick]', change)); monkeypatch.setenv('LUMBAR_SETTINGS', str(tmp_path/'s.ini'))
        refused(capsys, text, 'predict', tmp_path, '--out', tmp_path/'out')
    monkeypatch.delenv('LUMBAR_SETTINGS'); monkeypatch.setenv('LUMBAR_PROFILE', 'warp')
    refused(capsys, 'warp', 'predict', tmp_path, '--out', tmp_path/'out')

@real
def test_real_study_without_t1(tmp_path, capsys, no_models):
    status,out,_ = run(capsys, 'predict', DATA/'rsna_like', '--out', tmp_path/'out')
    assert status==0
    check_submission(tmp_path/'out/submission.csv', 1)
    page = (tmp_path/'out/report/index.html').read_text()
    assert 'no Sagittal T1 series' in page and 'DERIVED' not in page

@real
@pytest.mark.parametrize('folder,text', [('rsna_like','1 stud'), ('spider_mini','25'), ('spider_midslices','300')])
def test_check_says_what_is_there(folder, text, capsys):
    status,out,_ = run(capsys, 'check', DATA/folder)
    assert status==0 and text in out

@real
def test_check_refuses_neither_layout(capsys): refused(capsys, 'neither', 'check', DATA/'dicom')

def test_the_folder_above_is_answered_with_the_right_one(cohort, tmp_path, capsys):
    refused(capsys, f"did you mean {cohort/'rsna'}?", 'predict', cohort, '--out', tmp_path/'o')
    refused(capsys, f"did you mean {cohort}/", 'check', cohort)

def test_a_heap_of_series_is_said_to_be_one(cohort, tmp_path, caplog):
    study = next(p for p in (cohort/'rsna/train_images').iterdir() if len(list(p.iterdir()))>1)
    for i,f in enumerate(sorted(study.glob('*/*.dcm'))): shutil.copy(f, tmp_path/f'{i}.dcm')
    main(['segment', str(tmp_path), '--out', str(tmp_path/'m.mha')])
    assert 'stacks; the largest is taken' in caplog.text

def test_no_warning_reaches_a_user(tmp_path):
    "Neither from the command nor from its worker processes, which import other libraries anew."
    code = "import warnings; warnings.warn('this is deprecated', FutureWarning)"
    run = f"import subprocess,sys; from lumbar_nbdev.cli import main; main(['check',{str(tmp_path)!r}]); subprocess.run([sys.executable,'-c',{code!r}])"
    env = {k: v for k,v in os.environ.items() if k!='PYTHONWARNINGS'} # other tests have called `main` in this process
    done = subprocess.run([sys.executable,'-c',run], capture_output=True, text=True, env=env)
    assert 'deprecated' not in done.stderr and 'Warning' not in done.stderr
    assert 'deprecated' in subprocess.run([sys.executable,'-c',code], capture_output=True, text=True, env=env).stderr
