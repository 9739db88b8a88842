"Small series, a small competition folder and a small SPIDER folder, written to disk for the tests."
import csv,io,os,signal,sys
from multiprocessing import get_context
from pathlib import Path
from threading import RLock
import numpy as np
import pandas as pd
import pydicom,pytest
import SimpleITK as sitk
from pydicom.dataset import FileDataset,FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian,MRImageStorage,generate_uid
from tqdm import tqdm
from lumbar_nbdev.core import *
from lumbar_nbdev.volume import *

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent/'shared'/'data'
DICOM = REAL/'dicom'
needs_dicom = pytest.mark.skipif(not DICOM.is_dir(), reason="no real DICOM files in ../shared/data/dicom")

@pytest.fixture(autouse=True)
def quiet():
    "No warnings of the library in the tests' output."
    log.setLevel('ERROR'); yield; log.setLevel('NOTSET')

@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    "Settings whose cache is a folder of this test."
    text = (ROOT/'settings.ini').read_text().replace('~/.lumbar/cache', str(tmp_path/'own-cache'))
    (tmp_path/'settings.ini').write_text(text); monkeypatch.setenv('LUMBAR_SETTINGS', str(tmp_path/'settings.ini'))

def forked(work, *args):
    "A child process in a session of its own that runs `work`; it starts at once, for nothing has to be imported."
    p = get_context('fork').Process(target=_in_session, args=(work,*args)); p.start()
    return p
def _in_session(work, *args):
    tqdm.set_lock(RLock()) # A lock shared with the parent would stay locked when this process is killed
    os.setsid(); signal.signal(signal.SIGINT, signal.default_int_handler); sys.stdout = sys.stderr = open(os.devnull,'w'); work(*args)

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
    meta.MediaStorageSOPClassUID,meta.MediaStorageSOPInstanceUID = MRImageStorage,generate_uid(entropy_srcs=[str(path)])
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
    "A volume as numbered DICOM files."
    numbers = [n+1+start for n in order or range(len(volume.data))]
    for k,n in enumerate(numbers): write_slice(folder/f'{n}.dcm', volume, k, InstanceNumber=n, **tags)
    return folder

def corners(volume): return volume.to_world(np.indices((2,2,2)).reshape(3,-1).T*(np.array(volume.shape)-1))

def itk_series(folder):
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    return sitk.ReadImage(names if len(names)>1 else names[0])

def itk_corners(image):
    ends = np.indices((2,2,2)).reshape(3,-1).T*(np.array(image.GetSize())-1)
    return np.array([image.TransformIndexToPhysicalPoint([int(i) for i in e]) for e in ends])

def apart(a, b): return np.linalg.norm(a[:,None]-b[None], axis=-1).min(1).max()

def retag(path, **tags):
    "Change tags of a DICOM file; None removes one."
    ds = pydicom.dcmread(path)
    for tag,value in tags.items():
        if value is None: delattr(ds, tag)
        else: setattr(ds, tag, value)
    ds.save_as(path)

GRIDS = {'Sagittal T1': ((7,64,48), make_affine((-24,-60,70), (8,0,0), (0,0,-2.5), (0,2.5,0))),
         'Sagittal T2/STIR': ((7,64,48), make_affine((-24,-60,70), (8,0,0), (0,0,-2.5), (0,2.5,0))),
         'Axial T2': ((20,40,40), make_affine((-50,-50,-70), (0,0,7), (0,2.5,0), (2.5,0,0)))}

OPTIONAL = dict(SliceThickness=7, SpacingBetweenSlices=7, SeriesDescription='test') # Header entries that a sound folder has

def write_rsna(root, studies=(11,4290709089)):
    "A competition folder without a flaw: series study*10 + 0 (T1), 1 (T2), 2 (axial), all 25 labels and points."
    rng = np.random.default_rng(0); series,points,labels = [],[],[]
    for study in studies:
        for j,(kind,(shape,affine)) in enumerate(GRIDS.items()):
            v,number = Volume(rng.integers(0, 4000, shape).astype(np.uint16), affine),study*10+j if study<10**8 else 4294540290+j
            write_series(root/f'train_images/{study}/{number}', v, uid=f'1.2.{number}', **OPTIONAL); series.append((study, number, kind))
            for c in CONDITIONS:
                if GROUP_SERIES[condition_group(c)]!=kind: continue
                for i,l in enumerate(LEVELS):
                    k,y,x = v.to_voxel([{'left':20,'right':-20,'':0}[condition_side(c)], 10, 50-25*i]).round()
                    points.append((study, number, int(k)+1, condition_title(c), level_title(l), x, y))
        labels.append({'study_id':study, **{f'{c}_{l}': rng.choice(SEVERITIES) for c in CONDITIONS for l in LEVELS}})
    save = lambda rows,columns,name: pd.DataFrame(rows, columns=columns).to_csv(root/name, index=False)
    save(labels, None, 'train.csv'); save(series, ['study_id','series_id','series_description'], 'train_series_descriptions.csv')
    save(points, ['study_id','series_id','instance_number','condition','level','x','y'], 'train_label_coordinates.csv')
    return root

# Mutated tables

NASTY = ['','0','-1','1e9','nan','inf','NULL','None','4294967296','99999999999999999999','1_000','\u0663','3.0','"','""',"'",',',';','\t','\r','\n','\0','\ufeff','L4/L5','l4_l5','Severe','severe','=1+1','../../x','x'*300,'\u2028',' 11 ']

def mutate(rng, text):
    "One to three changes to a table: cells, rows, columns, separators, bytes."
    for _ in range(rng.choice((1,1,1,2,3))):
        rows = [r.split(',') for r in text.split('\n')]; i = rng.randrange(len(rows)); j = rng.randrange(len(rows[i])); k = rng.randrange(20)
        if k in (0,1,2): rows[i][j] = rng.choice(NASTY)
        elif k==3: rows[i][j] += rng.choice(NASTY)
        elif k==4: del rows[i][j]
        elif k==5: rows[i].insert(j, rng.choice(NASTY))
        elif k==6: rows.insert(rng.randrange(len(rows)), list(rng.choice(rows)))
        elif k==7: del rows[i]
        elif k==8: rng.shuffle(rows)
        elif k==9: rows = [r[:j]+r[j+1:] for r in rows]
        elif k==10: rows = [r[:j]+[rng.choice(NASTY)]+r[j:] for r in rows]
        elif k in (13,14,15): rows[i][j] = rng.choice([r[j] for r in rows if len(r)>j])
        elif k in (16,17): rows[i][j] = rng.choice((f' {rows[i][j]} ', f'"{rows[i][j]}"', rows[i][j].lower(), rows[i][j].upper(), f'0{rows[i][j]}'))
        text = rng.choice(('\n',)*6+('\r\n',)).join(map(','.join, rows))
        if k==11: text = text[:rng.randrange(len(text)+1)]
        if k==12 and text: a = rng.randrange(len(text)); text = text[:a]+rng.choice(NASTY+list('a1,\n'))+text[a+rng.randint(0,4):]
        text = text or ','
    return text

def said(path):
    "What a strict reading of a table says, cell by cell: the judge."
    rows = [[c.strip() for c in r] for r in csv.reader(io.StringIO(path.read_bytes().decode('utf-8-sig'), newline='')) if r]
    return [dict(zip(rows[0], r)) for r in rows[1:]] if rows else []
