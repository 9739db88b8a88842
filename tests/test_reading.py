"Reading DICOM, images, the competition's folder and SPIDER: faults, odd files and odd orders that a notebook cannot show."
import itertools,os,shutil,subprocess,sys
from pathlib import Path
import numpy as np
import pandas as pd
import pydicom,pytest
import SimpleITK as sitk
from pydicom.dataset import FileDataset,FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian,MRImageStorage,generate_uid
from lumbar_nbdev.cohort import *
from lumbar_nbdev.core import *
from lumbar_nbdev.spider import *
from lumbar_nbdev.volume import *

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent/'shared'/'data'
DICOM = REAL/'dicom'
needs_dicom = pytest.mark.skipif(not DICOM.is_dir(), reason="no real DICOM files in ../shared/data/dicom")

@pytest.fixture(autouse=True)
def _quiet():
    log.setLevel('ERROR'); yield; log.setLevel('NOTSET')

def rotated(rng, degrees=20):
    "A random rotation of a few degrees about each axis."
    a,b,c = np.deg2rad(rng.uniform(-degrees, degrees, 3))
    x = np.array([[1,0,0],[0,np.cos(a),-np.sin(a)],[0,np.sin(a),np.cos(a)]])
    y = np.array([[np.cos(b),0,np.sin(b)],[0,1,0],[-np.sin(b),0,np.cos(b)]])
    z = np.array([[np.cos(c),-np.sin(c),0],[np.sin(c),np.cos(c),0],[0,0,1]])
    return x @ y @ z

def sagittal(shape=(5,12,10), seed=0, turn=np.eye(3)):
    "A sagittal volume of noise; `turn` tilts it."
    steps = turn @ np.array([[4.4,0,0],[0,0,-.7],[0,.6,0]]).T
    data = np.random.default_rng(seed).integers(0, 4000, shape).astype(np.uint16)
    return Volume(data, make_affine((-11.3,-40.2,55.7), *steps.T))

def write_slice(path, volume, k, uid='1.2.3', **tags):
    "One slice as a DICOM file; a tag of None is left out."
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset(); meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID,meta.MediaStorageSOPInstanceUID = MRImageStorage,generate_uid()
    ds = FileDataset('', {}, file_meta=meta, preamble=b'\0'*128)
    pixels = volume.data[k]
    facts = dict(SOPClassUID=MRImageStorage, SOPInstanceUID=meta.MediaStorageSOPInstanceUID, SeriesInstanceUID=uid, Modality='MR', InstanceNumber=k+1,
        PatientName='Doe^Jane', PatientID='secret', SamplesPerPixel=1, PhotometricInterpretation='MONOCHROME2', Rows=pixels.shape[0], Columns=pixels.shape[1],
        BitsAllocated=16, BitsStored=16, HighBit=15, PixelRepresentation=int(pixels.dtype.kind=='i'), ImagePositionPatient=[f'{x:.9g}' for x in volume.to_world([k,0,0])],
        ImageOrientationPatient=[f'{x:.9g}' for a in (2,1) for x in volume.affine[:3,a]/volume.spacing[a]], PixelSpacing=[f'{x:.9g}' for x in volume.spacing[1:]],
        PixelData=pixels.astype(pixels.dtype.newbyteorder('<')).tobytes()) | tags
    for tag,value in facts.items():
        if value is not None: setattr(ds, tag, value)
    ds.save_as(path, enforce_file_format=True)
    return path

def write_series(folder, volume, order=None, start=0, **tags):
    for k in range(len(volume.data)): write_slice(folder/f'{(order or range(len(volume.data)))[k]+1+start}.dcm', volume, k, InstanceNumber=(order or range(len(volume.data)))[k]+1+start, **tags)
    return folder

def corners(volume): return volume.to_world(np.indices((2,2,2)).reshape(3,-1).T*(np.array(volume.shape)-1))

def itk_series(folder):
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    return sitk.ReadImage(names if len(names)>1 else names[0])

def itk_corners(image):
    ends = np.indices((2,2,2)).reshape(3,-1).T*(np.array(image.GetSize())-1)
    return np.array([image.TransformIndexToPhysicalPoint([int(i) for i in e]) for e in ends])

def apart(a, b): return np.linalg.norm(a[:,None]-b[None], axis=-1).min(1).max()

# The competition's folder

SERIES = 'study_id,series_id,series_description\n11,111,Sagittal T1\n11,112,Axial T2\n4290709089,4294540297,Sagittal T2/STIR\n'
POINTS = 'study_id,series_id,instance_number,condition,level,x,y\n11,111,1,Left Neural Foraminal Narrowing,L4/L5,3.5,4.5\n11,111,2,right_neural_foraminal_narrowing,l4_l5,3,4\n'
COLUMNS = [f'{c}_{l}' for c in CONDITIONS for l in LEVELS]

@pytest.fixture
def rsna(tmp_path):
    root = tmp_path/'rsna'; root.mkdir()
    (root/'train_series_descriptions.csv').write_text(SERIES); (root/'train_label_coordinates.csv').write_text(POINTS)
    pd.DataFrame([[s, *(['Normal/Mild','Severe','']*9)[:25]] for s in (11,4290709089)], columns=['study_id',*COLUMNS]).to_csv(root/'train.csv', index=False)
    write_series(root/'train_images/11/111', sagittal()); write_series(root/'train_images/4290709089/4294540297', sagittal(seed=1))
    write_series(root/'train_images/11/112', Volume(np.zeros((4,6,5),np.uint16), make_affine((0,0,0),(0,0,4),(0,1,0),(1,0,0))))
    return root

@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    text = (ROOT/'settings.ini').read_text().replace('~/.lumbar/cache', str(tmp_path/'own-cache'))
    (tmp_path/'settings.ini').write_text(text); monkeypatch.setenv('LUMBAR_SETTINGS', str(tmp_path/'settings.ini'))

def test_both_spellings_and_big_ids(rsna):
    c = Cohort(rsna)
    assert c.studies==[11,4290709089] and c.problems==[] and c.series.series_id.max()==4294540297
    assert c.coordinates.condition.tolist()==['left_neural_foraminal_narrowing','right_neural_foraminal_narrowing'] and set(c.coordinates.level)=={'l4_l5'}
    assert {str(t) for table in (c.series,c.coordinates,c.labels) for t in table[['study_id']].dtypes}=={'int64'}
    places = c.places(11, c.volumes(11))
    assert np.allclose(places[['wx','wy','wz']], sagittal().to_world([[0,4.5,3.5],[1,4,3]]))

@pytest.mark.parametrize('name,old,new,words', [
    ('train_series_descriptions.csv', 'series_id', 'series', "the column 'series_id' is missing"),
    ('train_series_descriptions.csv', '11,112', '11,abc', "row 3, column series_id: not a whole number: 'abc'"),
    ('train_series_descriptions.csv', '4290709089', '4290709089.0', "row 4, column study_id"),
    ('train_series_descriptions.csv', 'Axial T2', 'Axial T9', "row 3, column series_description: unknown series_description: 'Axial T9'"),
    ('train_series_descriptions.csv', '11,111', '../../etc,111', "row 2, column study_id"),
    ('train_label_coordinates.csv', 'Left Neural', 'Left Neurol', "row 2, column condition: unknown condition"),
    ('train_label_coordinates.csv', 'L4/L5', 'L6/S1', "row 2, column level: unknown level: 'L6/S1'"),
    ('train_label_coordinates.csv', '3.5', 'nan', "row 2, column x: not a number"),
    ('train_label_coordinates.csv', 'instance_number', 'instance', "the column 'instance_number' is missing"),
    ('train.csv', 'Severe', 'Terrible', "unknown severity: 'Terrible'"),
    ('train.csv', 'spinal_canal_stenosis_l1_l2', 'spinal_canal_stenosis_l9_l9', "is missing"),
    ('train.csv', '4290709089', '11', "study 11 is given twice")])
def test_wrong_tables_name_file_row_and_value(rsna, name, old, new, words):
    path = rsna/name
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError) as e: Cohort(rsna)
    assert words in str(e.value) and name in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('raw', [b'', b'\xff\xfe\x00\x01', b'study_id,series_id,series_description\n1,2,"open'], ids=['empty','binary','open quote'])
def test_unreadable_tables(rsna, raw):
    (rsna/'train_series_descriptions.csv').write_bytes(raw)
    with pytest.raises(InputError, match='train_series_descriptions.csv'): Cohort(rsna)

def test_folders_that_are_no_cohort(tmp_path, rsna):
    (tmp_path/'empty').mkdir()
    for path,words in ((tmp_path/'nowhere','no such folder'), (tmp_path/'empty','the folder is empty'), (rsna/'train_images',"not the competition's layout"), (rsna/'train.csv','not a folder')):
        for look in (Cohort, check_rsna):
            with pytest.raises(InputError, match=words): look(path)
    with pytest.raises(InputError, match='no test part'): Cohort(rsna, 'test')
    (rsna/'train.csv').unlink()
    with pytest.raises(InputError, match='no such file.*train.csv'): Cohort(rsna)

def test_disk_and_table_may_disagree(rsna):
    shutil.rmtree(rsna/'train_images/4290709089'); (rsna/'train_images/11/999').mkdir(); (rsna/'train_images/77/1').mkdir(parents=True); (rsna/'train_images/notes').mkdir()
    c = Cohort(rsna)
    assert len(c.problems)==3 and c.studies==[11,4290709089] and c.volumes(4290709089)==[]
    assert all(any(word in p for p in c.problems) for word in ('4290709089','11/999','77'))

def test_one_bad_series_does_not_stop_a_study(rsna):
    for f in (rsna/'train_images/11/111').iterdir(): f.write_text('no image')
    c = Cohort(rsna)
    assert [v.meta['series_id'] for v in c.volumes(11)]==[112] and len(c.places(11, c.volumes(11)))==0
    assert len(c.problems)==1 and 'series 111' in c.problems[0] and str(rsna) not in c.problems[0]
    assert any('files that cannot be read: 5' in line for line in check_rsna(rsna))

def test_the_test_part_comes_first_unless_it_is_empty(rsna):
    (rsna/'test_series_descriptions.csv').write_text(SERIES.split('\n')[0]+'\n')
    assert Cohort(rsna).split=='train' and Cohort(rsna,'test').studies==[]
    (rsna/'test_series_descriptions.csv').write_text(SERIES)
    c = Cohort(rsna)
    assert c.split=='test' and c.labels is None and c.coordinates is None and c.problems==['the folder test_images is missing: no pictures'] and len(c.places(11,[]))==0

def test_keep_and_split(rsna):
    c = Cohort(rsna)
    train,held = c.split_studies(.5, 0)
    part = c.keep(train)
    assert part.studies==train and set(part.labels.study_id)==set(train) and len(c.studies)==2 and not set(train)&set(held)
    with pytest.raises(InputError, match='no such study'): c.keep([5])
    with pytest.raises(InputError, match='too few studies'): part.split_studies(.5, 0)

@pytest.mark.skipif(not (REAL/'rsna_like').is_dir(), reason="no ../shared/data/rsna_like")
def test_real_competition_tree():
    c = Cohort(REAL/'rsna_like')
    assert c.split=='test' and [v.plane for v in c.volumes(c.studies[0])]==['sagittal','axial'] and c.problems==[]
    assert 'missing: studies without Sagittal T1: 1 (90000001)' in check_rsna(REAL/'rsna_like')

# SPIDER

GRADED = ','.join(GRADINGS)+'\n3,1,0,0,0,0,0,1,1,4\n3,0,0,0,0,0,0,1,1,4\n'

@pytest.fixture
def spider(tmp_path):
    root = tmp_path/'spider'
    for i,stem in enumerate(('3_t1','3_t2_SPACE','12_t2')):
        v = sagittal(seed=i)
        axes = [[0,1],[1,1],[2,1]] if i else [[2,1],[0,-1],[1,1]]
        write_image(Volume(v.data.astype(np.float32)-1000, v.affine, dict(axes=axes)), root/f'images/{stem}.mha')
        write_image(Volume(np.array([0,1,7,100,201,207],np.int16)[v.data%6], v.affine, dict(axes=axes)), root/f'masks/{stem}.mha')
    (root/'overview.csv').write_text('new_file_name,sex,subset\n3_t1,F,training\n3_t2_SPACE,F ,training\n12_t2,M,training\n'); (root/'radiological_gradings.csv').write_text(GRADED)
    return root

def test_spider_reads_both_orders(spider):
    s = SpiderSet(spider)
    assert s.patients==[3,12] and s.series.kind.tolist()==['t1','t2_SPACE','t2'] and len(s.gradings)==1 and s.problems==['gradings without a disc, dropped: 1 (patients 3)']
    for i,stem in enumerate(s.series.stem):
        image,mask = s.load(stem)
        assert np.array_equal(image.data, sagittal(seed=i).data.astype(np.float32)-1000) and mask.data.dtype==np.uint16 and np.allclose(image.affine, sagittal().affine)
    train,held = s.split(.5, 1)
    assert {parse_stem(t)[0] for t in train}.isdisjoint({parse_stem(t)[0] for t in held}) and len(train)+len(held)==3

def test_official_split_is_used(spider):
    (spider/'overview.csv').write_text('new_file_name,subset\n3_t1,validation\n3_t2_SPACE,validation\n12_t2,training\n')
    assert SpiderSet(spider).split(.1, 0)==(['12_t2'],['3_t1','3_t2_SPACE'])

def test_bad_series_are_skipped_and_named(spider):
    write_image(sagittal((4,12,10)), spider/'masks/12_t2.mha'); (spider/'images/3_t1.mha').write_text('no image'); shutil.copy(spider/'images/3_t2_SPACE.mha', spider/'images/scan.mha')
    s = SpiderSet(spider)
    assert s.series.stem.tolist()==['3_t2_SPACE'] and all(any(word in p for p in s.problems) for word in ('12_t2 is skipped: mask and image differ','3_t1 is skipped: image unreadable','scan'))
    with pytest.raises(InputError, match='fewer than two patients'): s.split(.5, 0)

def test_strange_mask_values_are_refused(spider):
    v = sagittal()
    for bad in (255, 99, 226, 150):
        write_image(Volume(np.where(v.data>2000, bad, 0).astype(np.int16), v.affine), spider/'masks/12_t2.mha')
        with pytest.raises(InputError, match='mask values that SPIDER does not use'): SpiderSet(spider).load('12_t2')
    write_image(Volume((v.data%3/2).astype(np.float32), v.affine), spider/'masks/12_t2.mha')
    s = SpiderSet(spider)
    assert [stem for stem,_,_ in s.pairs(['12_t2','3_t2_SPACE'])]==['3_t2_SPACE'] and any('12_t2 is skipped' in p for p in s.problems)
    assert any(line.startswith('wrong: mask values') for line in check_spider(spider))

def test_spider_tables_and_folders_that_are_wrong(spider, tmp_path):
    (tmp_path/'empty').mkdir()
    for path,words in ((tmp_path/'nowhere','no such folder'), (tmp_path/'empty','the folder is empty'), (spider/'images',"not SPIDER's layout"), (spider/'overview.csv','not a folder')):
        with pytest.raises(InputError, match=words): check_spider(path)
    for old,new,words in (('Pfirrman grade','Pfirrmann',"the column 'Pfirrman grade' is missing"), ('3,1,0','3,x,0','row 2 holds a value'), (',4\n',',9\n','unknown Pfirrmann grade 9')):
        (spider/'radiological_gradings.csv').write_text(GRADED.replace(old,new,1))
        with pytest.raises(InputError, match=words): SpiderSet(spider)
    (spider/'radiological_gradings.csv').unlink(); (spider/'overview.csv').unlink(); shutil.rmtree(spider/'masks')
    lines = check_spider(spider)
    assert {'0 masks','missing: series without a mask: 3 of 3','missing: radiological_gradings.csv is missing: no gradings','missing: overview.csv is missing: no official split'}<=set(lines)

def test_an_interrupted_unpacking_goes_on(tmp_path):
    import zipfile
    with zipfile.ZipFile(tmp_path/'a.zip','w') as z: z.writestr('images/1_t1.mha','one'); z.writestr('images/2_t1.mha','two')
    assert unpack(tmp_path/'a.zip', tmp_path/'out')==2
    (tmp_path/'out/images/2_t1.mha').write_text('t'); before = (tmp_path/'out/images/1_t1.mha').stat().st_mtime_ns
    unpack(tmp_path/'a.zip', tmp_path/'out')
    assert (tmp_path/'out/images/2_t1.mha').read_text()=='two' and (tmp_path/'out/images/1_t1.mha').stat().st_mtime_ns==before
    (tmp_path/'a.zip').write_bytes((tmp_path/'a.zip').read_bytes()[:60])
    with pytest.raises(InputError, match='a damaged archive'): unpack(tmp_path/'a.zip', tmp_path/'out')

@pytest.mark.skipif(not (REAL/'spider_mini').is_dir(), reason="no ../shared/data/spider_mini and spider_midslices")
def test_real_spider_folders():
    s = SpiderSet(REAL/'spider_mini')
    assert len(s.patients)==25 and not s.problems
    image,mask = s.load('4_t2')
    assert image.plane=='sagittal' and image.shape==mask.shape
    discs = [np.argwhere(mask.data==v).mean(0)[1] for v in (201,202,203,204)]
    assert (np.diff(discs)<0).all(), "discs are counted from the bottom, rows run from head to foot"
    assert 'missing: series without a mask: 300 of 300' in check_spider(REAL/'spider_midslices')
