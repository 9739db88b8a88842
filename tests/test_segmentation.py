"What the notebooks on the U-Net, the segmentation and the discs cannot show: damaged models, odd volumes, a hub out of reach, bad studies."
import json,os,subprocess,sys
from dataclasses import replace
import numpy as np
import pandas as pd
import pytest
from hypothesis import given,settings as how,strategies as st
from lumbar_nbdev.cohort import Cohort
from lumbar_nbdev.core import CANAL,InputError,LumbarError,ModelError
from lumbar_nbdev.discs import discs_from_cohort
from lumbar_nbdev.phantom import phantom_cohort
from lumbar_nbdev.segmentation import Segmenter,name_levels,quick_segmenter
from lumbar_nbdev.unet import read_card,save_model
from lumbar_nbdev.volume import Volume,make_affine

@pytest.fixture(scope='module')
def segmenter(): return quick_segmenter()

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

@pytest.mark.parametrize('change', (dict(kind='grader'), dict(encoder='hf-hub:someone/model'), dict(encoder=3), dict(size=100), dict(size='256'), dict(size=10**9), dict(weights=1), dict(encoder='resnet18')))
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
    mask = segmenter(volume)
    assert mask.shape==volume.shape and mask.data.dtype==np.uint16 and np.allclose(mask.affine, volume.affine)
    assert not (mask.data>200).any(), "there is no disc in an empty picture"

@pytest.mark.parametrize('turn', ((0,1,2),(0,2,1)))
def test_any_in_plane_orientation(segmenter, turn):
    "Transposed and mirrored arrays of one scan get the same mask."
    from lumbar_nbdev.spider import SpiderSet
    image,_ = SpiderSet(phantom_cohort(8)/'spider').load('5_t2')
    image = replace(image, data=image.data[6:8], affine=image.affine@[[1,0,0,6],[0,1,0,0],[0,0,1,0],[0,0,0,1]])
    flip = np.diag([1.,-1,1,1]); flip[1,3] = image.shape[1]-1
    data,affine = image.data[:,::-1].transpose(turn), (image.affine@flip)[:,[*turn,3]]
    there = segmenter(Volume(np.ascontiguousarray(data), affine, {})).data.transpose(turn)[:,::-1]
    here = segmenter(image).data
    assert (here>0).sum()>1000 and (here==there).mean()>.999

def blocks(*discs, canal=True):
    "A drawn class mask: discs (middle row) between vertebrae, rows of 1 mm running to the feet."
    data = np.zeros((3,260,120), np.uint8)
    data[:,discs[0]-30:discs[-1],30:64] = 1
    for r in discs: data[:,r-4:r+4,30:64] = 3
    if canal: data[:,:,72:84] = 2
    return Volume(data, make_affine((0,0,0), (4,0,0), (0,0,-1), (0,1,0)), {})

def test_names_from_below():
    mask = name_levels(blocks(60,95,130,165,200)).data
    assert [int(mask[1,r,45]) for r in (200,165,130,95,60)]==[201,202,203,204,205]
    assert [int(mask[1,r,45]) for r in (180,148,112,78,40)]==[1,2,3,4,5]
    assert (mask[:,:,78]==CANAL).all()

def test_a_missed_disc_keeps_its_number():
    mask = name_levels(blocks(60,95,165,200)).data
    assert [int(mask[1,r,45]) for r in (200,165,95,60)]==[201,202,204,205]
    assert [int(mask[1,r,45]) for r in (180,150,112,78,40)]==[1,2,3,4,5]

def test_crumbs_and_remnants_are_no_discs():
    classes = blocks(60,95,130,165,200)
    classes.data[1,230:233,40:58] = 3 # the remnant inside the sacrum
    classes.data[1,20:23,90:93] = 3
    classes.data[:,215:225,30:60] = 1 # a piece of sacrum
    mask = name_levels(classes).data
    assert set(np.unique(mask))=={0,1,2,3,4,5,CANAL,201,202,203,204,205}
    assert not mask[:,205:,30:64].any()

def test_bone_without_discs():
    classes = blocks(60,95)
    classes.data[classes.data==3] = 1
    assert set(np.unique(name_levels(classes).data))=={0,1,CANAL}

def test_one_bad_study_does_not_stop_the_others(tmp_path):
    cohort = Cohort(phantom_cohort(8)/'rsna', 'train').keep(Cohort(phantom_cohort(8)/'rsna', 'train').studies[:4])
    a,b,c,d = cohort.studies
    points = cohort.coordinates
    canal = points.condition=='spinal_canal_stenosis'
    points = points[~(canal&(points.study_id==a)&(points.level!='l4_l5'))].copy() # one point only
    points.loc[points.study_id==b, 'instance_number'] = 999 # slices that do not exist
    points.loc[points.study_id==c, 'series_id'] = 1 # a series that does not exist
    cohort.coordinates = points
    table = discs_from_cohort(cohort, tmp_path/'out')
    assert set(table.study_id)=={d} and sorted(p.name for p in (tmp_path/'out').iterdir())==[f'{d}.mha','discs.csv']
    assert all(any(str(s) in p for p in cohort.problems) for s in (a,b,c))
    assert len(pd.read_csv(tmp_path/'out'/'discs.csv'))==5

def test_no_coordinates(tmp_path):
    cohort = Cohort(phantom_cohort(8)/'rsna', 'train')
    cohort.coordinates = None
    with pytest.raises(InputError, match='no coordinates'): discs_from_cohort(cohort, tmp_path)
    assert issubclass(InputError, LumbarError)
