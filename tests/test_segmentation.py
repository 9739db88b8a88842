"What the notebooks on the segmenter and its training cannot show: damaged models, odd volumes, a hub out of reach, a training that is killed."
import json,os,signal,subprocess,sys,time
from dataclasses import replace
import numpy as np
import pandas as pd
import pytest
from hypothesis import given,settings as how,strategies as st
from lumbar_nbdev.core import InputError,ModelError,settings
from lumbar_nbdev.phantom import phantom_cohort
from lumbar_nbdev.segmenter import Segmenter,packaged_segmenter
from lumbar_nbdev.spider import SpiderSet
from lumbar_nbdev.unet import read_card,save_model
from lumbar_nbdev.volume import Volume,make_affine,write_image

@pytest.fixture(scope='module')
def segmenter(): return packaged_segmenter()

@pytest.fixture
def model(tmp_path, segmenter):
    "A folder with a good segmenter."
    save_model(segmenter.net, tmp_path/'segmenter', segmenter.card)
    return tmp_path

def sagittal(slices, rows, cols, mm=.7, fill=0, dtype=np.float32):
    "A sagittal volume of one value: rows run to the feet, columns to the back."
    return Volume(np.full((slices,rows,cols), fill, dtype), make_affine((0,0,0), (4.4,0,0), (0,0,-mm), (0,mm,0)), {})

@pytest.mark.parametrize('share', (0, .01, .5, .999))
def test_truncated_weights(model, share):
    file = model/'segmenter.safetensors'
    file.write_bytes(file.read_bytes()[:int(file.stat().st_size*share)])
    with pytest.raises(ModelError, match='segmenter.safetensors'): Segmenter.load(model)

def test_pickle_is_not_opened(model, tmp_path):
    "A pickle in the weights' place, under a card that vouches for it, must not run."
    import hashlib,pickle
    class Evil:
        def __reduce__(self): return (os.mkdir, (str(tmp_path/'ran'),))
    data = pickle.dumps(Evil())
    (model/'segmenter.safetensors').write_bytes(data)
    card = json.loads((model/'segmenter.json').read_text())
    (model/'segmenter.json').write_text(json.dumps(card|dict(weights=hashlib.sha256(data).hexdigest())))
    with pytest.raises(ModelError, match='do not fit'): Segmenter.load(model)
    assert not (tmp_path/'ran').exists()

@pytest.mark.parametrize('change', (dict(kind='grader'), dict(encoder='hf-hub:someone/model'), dict(encoder=3), dict(labels=['background']), dict(labels=5), dict(weights=1), dict(encoder='resnet18')))
def test_wrong_card(model, change):
    card = json.loads((model/'segmenter.json').read_text())
    (model/'segmenter.json').write_text(json.dumps(card|change))
    with pytest.raises(ModelError): Segmenter.load(model)

@how(max_examples=40, deadline=None)
@given(st.binary(max_size=200)|st.text(max_size=100).map(str.encode)|st.recursive(st.none()|st.integers()|st.text(), lambda c: st.lists(c)|st.dictionaries(st.text(),c), max_leaves=5).map(lambda o: json.dumps(o).encode()))
def test_any_card(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp('card')
    (folder/'segmenter.json').write_bytes(data)
    with pytest.raises(ModelError): read_card(folder/'segmenter', 'segmenter')

def test_a_card_of_a_hundred_thousand_brackets(tmp_path):
    (tmp_path/'segmenter.json').write_text('['*200000)
    with pytest.raises(ModelError, match='card'): read_card(tmp_path/'segmenter', 'segmenter')

def test_damaged_weights_to_begin_with_are_not_passed_over(tmp_path):
    "A training that would silently begin from photographs instead would be another training."
    from lumbar_nbdev.segmentation import fit_segmenter
    data = SpiderSet(phantom_cohort(8)/'spider')
    packaged_segmenter('phantom').save(tmp_path, 'phantom', half=True)
    (tmp_path/'phantom.safetensors').write_bytes(b'x')
    with pytest.raises(ModelError): fit_segmenter(data, (['1_t2'],['2_t2']), settings('quick'), tmp_path/'out', tmp_path, [])

def test_one_patient_cannot_be_cross_validated(tmp_path):
    from lumbar_nbdev.segmentation import cross_validate
    image,mask = SpiderSet(phantom_cohort(8)/'spider').load('1_t2')
    for sub,v in (('images',image),('masks',mask)): write_image(v, tmp_path/sub/'1_t2.mha')
    with pytest.raises(InputError, match='too few patients'): cross_validate(SpiderSet(tmp_path), settings('quick'), tmp_path/'out')

def test_missing_model(tmp_path):
    with pytest.raises(ModelError, match='no segmenter model'): Segmenter.load(tmp_path/'nothing')

def test_hub_out_of_reach():
    "Weights that cannot be fetched are one sentence, not a traceback of the hub's."
    code = "from lumbar_nbdev.unet import *\nfrom lumbar_nbdev.core import ModelError\ntry: create_encoder('resnet18')\nexcept ModelError as e: print('said:', e)"
    env = os.environ|dict(HF_HUB_OFFLINE='1', HF_HOME='/nonexistent')
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env)
    assert 'said: cannot get ImageNet weights: resnet18' in out.stdout, out.stderr

@pytest.mark.parametrize('volume', (sagittal(1,64,64), sagittal(3,2000,2000,.15), sagittal(2,20,20,5.), sagittal(2,300,40), sagittal(2,90,90,fill=np.nan), sagittal(2,90,90,fill=np.inf),
    sagittal(2,90,90,fill=700,dtype=np.uint16), sagittal(2,400,400,30.)), ids=('one slice','large','tiny','narrow','nan','inf','constant','metres wide'))
def test_odd_volumes(segmenter, volume):
    classes = segmenter.classes(volume)
    assert classes.shape==volume.shape and classes.data.dtype==np.uint8 and np.allclose(classes.affine, volume.affine)
    assert not (classes.data==3).any(), "there is no disc in an empty picture"

@pytest.mark.parametrize('turn', ((0,1,2),(0,2,1)))
def test_any_in_plane_orientation(segmenter, turn):
    "Transposed and mirrored arrays of one scan get the same mask."
    image,_ = SpiderSet(phantom_cohort(8)/'spider').load('5_t2')
    image = replace(image, data=image.data[6:8], affine=image.affine@[[1,0,0,6],[0,1,0,0],[0,0,1,0],[0,0,0,1]])
    flip = np.diag([1.,-1,1,1]); flip[1,3] = image.shape[1]-1
    data,affine = image.data[:,::-1].transpose(turn), (image.affine@flip)[:,[*turn,3]]
    there = segmenter.classes(Volume(np.ascontiguousarray(data), affine, {})).data.transpose(turn)[:,::-1]
    here = segmenter.classes(image).data
    assert (here>0).sum()>1000 and (here==there).mean()>.999


# A training as short as can be: three patients, windows of 64 pixels, six epochs of four steps.
TRAINING = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from lumbar_nbdev import segmentation
from lumbar_nbdev.core import settings
torch.set_num_threads(1)
segmentation.STEPS = 4
run = replace(settings('quick'), workers=1, studies=3, segmenter_slices=1, segmenter_phantoms=1, segmenter_size=64, segmenter_batch=2, segmenter_epochs=6)
segmentation.train_segmenter(sys.argv[1], Path(sys.argv[2]), run)
"""

def training(data, out): return subprocess.Popen([sys.executable, '-c', TRAINING, str(data), str(out)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

def test_a_killed_training_ends_where_an_undisturbed_one_does(tmp_path):
    data = phantom_cohort(8)/'spider'
    whole = training(data, tmp_path/'whole')
    cut = training(data, tmp_path/'cut')
    chance = np.random.default_rng(); epochs,delay = int(chance.integers(1,7)), float(chance.uniform(0,.4)) # after the sixth it is being judged
    print(f'killed {delay:.2f} s after epoch {epochs} of 6')
    while cut.poll() is None and (not (tmp_path/'cut/training.csv').exists() or len(pd.read_csv(tmp_path/'cut/training.csv'))<epochs): time.sleep(.02)
    time.sleep(delay)
    cut.send_signal(signal.SIGKILL); cut.wait()
    assert not (tmp_path/'cut/segmenter.json').exists(), "it was killed too late to test anything"
    again = training(data, tmp_path/'cut')
    said,_ = again.communicate()
    assert again.returncode==0 and 'going on from epoch' in said, said
    assert whole.wait()==0
    a,b = (pd.read_csv(tmp_path/n/'training.csv') for n in ('whole','cut'))
    assert a.epoch.tolist()==b.epoch.tolist()==[0,1,2,3,4,5] and np.allclose(a, b, atol=1e-3, equal_nan=True)
    a,b = (json.loads((tmp_path/n/'segmenter.json').read_text())['dice'] for n in ('whole','cut'))
    assert all(abs(a[k]-b[k])<=1e-3 for k in ('vertebra','canal','disc')), (a,b)
    assert not (tmp_path/'cut/checkpoint.safetensors').exists()
    print(f"largest difference of any figure of any epoch: {np.nanmax(np.abs(pd.read_csv(tmp_path/'whole/training.csv')-pd.read_csv(tmp_path/'cut/training.csv')).to_numpy()):.1e}")

def test_another_trainings_checkpoint_is_not_taken_up(tmp_path):
    from lumbar_nbdev.segmentation import Checkpoint
    from safetensors.torch import save_file
    import torch
    save_file({'net.a': torch.zeros(1)}, tmp_path/'checkpoint.safetensors', dict(training=json.dumps(dict(of='that', rows=[1]))))
    assert Checkpoint(tmp_path, 1, 'this').kept is None and Checkpoint(tmp_path, 1, 'that').kept['rows']==[1]
    (tmp_path/'checkpoint.safetensors').write_bytes((tmp_path/'checkpoint.safetensors').read_bytes()[:20])
    assert Checkpoint(tmp_path, 1, 'that').kept is None

def test_unknown_labels_cost_one_series(tmp_path):
    "A mask with a value that stands for nothing is left out of the training, and the rest goes on."
    from lumbar_nbdev.segmentation import series_pictures
    source = SpiderSet(phantom_cohort(8)/'spider')
    for stem in ('1_t2','2_t2'):
        image,mask = source.load(stem)
        if stem=='2_t2': mask = replace(mask, data=np.where(mask.data==100, 77, mask.data))
        for sub,v in (('images',image),('masks',mask)): write_image(v, tmp_path/sub/f'{stem}.mha')
    data = SpiderSet(tmp_path)
    assert len(series_pictures(data, ['1_t2','2_t2'], settings('quick'), 0))==settings('quick').segmenter_slices
    assert any('2_t2' in p for p in data.problems)
