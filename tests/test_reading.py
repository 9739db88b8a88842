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

# DICOM: geometry

@pytest.mark.parametrize('seed', range(6))
def test_tilted_series_agree_with_simpleitk(tmp_path, seed):
    rng = np.random.default_rng(seed)
    v = sagittal(seed=seed, turn=rotated(rng))
    back, = read_dicom(write_series(tmp_path/'s', v, rng.permutation(5).tolist()))
    assert np.array_equal(back.data, v.data) and np.allclose(back.affine, v.affine, atol=1e-5)
    image = itk_series(tmp_path/'s')
    assert apart(itk_corners(image), corners(back))<1e-3
    again = sitk.ReadImage(str(write_image(back, tmp_path/'s.mha')))
    assert np.array_equal(sitk.GetArrayFromImage(again), sitk.GetArrayFromImage(image))
    assert np.allclose(again.GetDirection(), image.GetDirection(), atol=1e-6) and np.allclose(again.GetOrigin(), image.GetOrigin(), atol=1e-4)

def test_axial_runs_foot_to_head_and_sagittal_right_to_left(tmp_path):
    data = np.zeros((4,6,5), np.uint16)
    down = Volume(data, make_affine((-10,-20,90), (0,0,-4), (0,1,0), (1,0,0)))
    left_to_right = Volume(data, make_affine((30,-20,90), (-5,0,0), (0,0,-1), (0,1,0)))
    axial, = read_dicom(write_series(tmp_path/'a', down))
    side, = read_dicom(write_series(tmp_path/'s', left_to_right))
    assert axial.plane=='axial' and axial.affine[2,0]==4 and axial.meta['instances']==[4,3,2,1]
    assert side.plane=='sagittal' and side.affine[0,0]==5 and (np.diff(side.laterality())>0).all()

def test_mixed_orientations_and_sizes_give_separate_volumes(tmp_path):
    a,b = sagittal(),Volume(np.full((3,12,10), 7, np.uint16), make_affine((-10,-20,0), (0,0,5), (0,1,0), (1,0,0)))
    c = Volume(np.full((2,8,8), 9, np.uint16), a.affine)
    for i,v in enumerate((a,b,c)): write_series(tmp_path/'s', v, start=100*i)
    found = read_dicom(tmp_path/'s')
    assert [v.shape for v in found]==[(5,12,10),(3,12,10),(2,8,8)] and [v.plane for v in found]==['sagittal','axial','sagittal']

def test_two_series_in_one_folder_are_not_mixed(tmp_path):
    write_series(tmp_path/'s', sagittal(seed=1), uid='1.2.3'); write_series(tmp_path/'s', sagittal(seed=2), start=50, uid='1.2.4')
    found = read_dicom(tmp_path/'s')
    assert len(found)==2 and {v.data.tobytes() for v in found}=={sagittal(seed=s).data.tobytes() for s in (1,2)}

def test_header_slice_spacing_is_not_believed(tmp_path):
    for name,tags in dict(none={}, wrong=dict(SpacingBetweenSlices=99, SliceThickness=1)).items():
        v, = read_dicom(write_series(tmp_path/name, sagittal(), **tags))
        assert np.allclose(v.spacing, (4.4,.7,.6))

@pytest.mark.parametrize('tags,step', [({},1), (dict(SliceThickness=3),3), (dict(SliceThickness=3,SpacingBetweenSlices=3.5),3.5)])
def test_one_slice(tmp_path, tags, step):
    v, = read_dicom(write_slice(tmp_path/'1.dcm', sagittal(), 2, **tags))
    assert v.shape==(1,12,10) and np.isclose(v.spacing[0], step) and np.allclose(v.to_world([0,0,0]), sagittal().to_world([2,0,0]))

def test_big_and_missing_instance_numbers(tmp_path):
    v, = read_dicom(write_series(tmp_path/'big', sagittal(), start=5040))
    assert v.meta['instances']==[5041,5042,5043,5044,5045]
    for k in range(5): write_slice(tmp_path/f'none/{70+k}.dcm', sagittal(), k, InstanceNumber=None)
    assert read_dicom(tmp_path/'none')[0].meta['instances']==[70,71,72,73,74]

def test_repeated_slice_is_dropped_and_told(tmp_path):
    write_series(tmp_path/'s', sagittal()); write_slice(tmp_path/'s/77.dcm', sagittal(seed=5), 2, InstanceNumber=77)
    v, = read_dicom(tmp_path/'s')
    assert np.array_equal(v.data, sagittal().data) and any('repeat' in p for p in v.meta['problems'])

def test_gap_is_filled_and_a_jump_cuts(tmp_path):
    full = sagittal((9,6,5))
    write_series(tmp_path/'gap', full); (tmp_path/'gap/4.dcm').unlink()
    v, = read_dicom(tmp_path/'gap')
    assert v.shape==full.shape and np.allclose(v.affine, full.affine) and v.meta['instances']==[1,2,3,-1,5,6,7,8,9]
    assert np.array_equal(np.delete(v.data,3,0), np.delete(full.data,3,0))
    assert np.abs(v.data[3]-(full.data[2].astype(float)+full.data[4])/2).max()<=1
    write_series(tmp_path/'jump', full); [(tmp_path/f'jump/{n}.dcm').unlink() for n in (4,5,6,7)]
    upper,lower = read_dicom(tmp_path/'jump')
    assert (upper.shape[0],lower.shape[0])==(3,2) and np.allclose(lower.to_world([0,0,0]), full.to_world([7,0,0]))
    assert any('cut into 2 stacks' in p for p in upper.meta['problems'])

# DICOM: values

def test_rescale_signed_and_inverted(tmp_path):
    v = sagittal()
    scaled, = read_dicom(write_series(tmp_path/'a', v, RescaleSlope=2.5, RescaleIntercept=-10))
    assert scaled.data.dtype==np.float32 and np.allclose(scaled.data, v.data*2.5-10)
    slope_only, = read_dicom(write_series(tmp_path/'b', v, RescaleSlope=2))
    assert np.allclose(slope_only.data, v.data*2.)
    signed = Volume(v.data.astype(np.int16)-2000, v.affine)
    assert np.array_equal(read_dicom(write_series(tmp_path/'c', signed))[0].data, signed.data)
    inverted, = read_dicom(write_series(tmp_path/'d', v, PhotometricInterpretation='MONOCHROME1', BitsStored=12, HighBit=11))
    assert np.array_equal(inverted.data, 4095-v.data)

def syntaxes():
    import gdcm
    names = ['JPEGLosslessProcess14_1','JPEGLosslessProcess14','JPEGLSLossless','JPEG2000Lossless','RLELossless','ExplicitVRBigEndian','ImplicitVRLittleEndian','DeflatedExplicitVRLittleEndian']
    return {n: getattr(gdcm.TransferSyntax, n) for n in names if hasattr(gdcm.TransferSyntax, n)}

@pytest.mark.parametrize('name', sorted(syntaxes()))
def test_compressed_files_decode_to_the_same_numbers(tmp_path, name):
    import gdcm
    v = sagittal((2,32,24))
    plain = write_series(tmp_path/'plain', v, BitsStored=12, HighBit=11); (tmp_path/'packed').mkdir()
    for f in plain.iterdir():
        reader,change,writer = gdcm.ImageReader(),gdcm.ImageChangeTransferSyntax(),gdcm.ImageWriter()
        reader.SetFileName(str(f)); assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(syntaxes()[name])); change.SetInput(reader.GetImage())
        if not change.Change(): pytest.skip(f"GDCM does not write {name}")
        writer.SetFile(reader.GetFile()); writer.SetImage(change.GetOutput()); writer.SetFileName(str(tmp_path/'packed'/f.name)); assert writer.Write()
    packed = next((tmp_path/'packed').iterdir())
    assert pydicom.dcmread(packed).file_meta.TransferSyntaxUID!=ExplicitVRLittleEndian
    assert np.array_equal(read_dicom(tmp_path/'packed')[0].data, v.data)

# DICOM: faults

def test_nothing_readable_is_one_sentence(tmp_path):
    (tmp_path/'empty').mkdir(); (tmp_path/'text').mkdir(); (tmp_path/'nested/1').mkdir(parents=True)
    (tmp_path/'text/1.dcm').write_text('hello'); (tmp_path/'text/2.dcm').write_bytes(b'')
    for name,words in dict(empty='holds no files', text='not a DICOM file', nested='holds no files', nowhere='no such file or folder').items():
        with pytest.raises(InputError, match=words) as e: read_dicom(tmp_path/name)
        assert '\n' not in str(e.value)

@pytest.mark.parametrize('size', [0,100,132,150,300,500,700,-1])
def test_truncated_slice_does_not_stop_the_others(tmp_path, size):
    write_series(tmp_path/'s', sagittal())
    hurt = tmp_path/'s/5.dcm'; hurt.write_bytes(hurt.read_bytes()[:size])
    v, = read_dicom(tmp_path/'s')
    assert len(v.data)==4 and len(v.meta['problems'])==1 and v.meta['problems'][0].startswith('5.dcm: ')
    assert dicom_problem(hurt) and str(tmp_path) not in str(v.meta['problems'])

@pytest.mark.parametrize('tags', [dict(ImagePositionPatient=None), dict(ImageOrientationPatient=None), dict(PixelSpacing=None), dict(PixelSpacing=['0','1']), dict(PixelData=None), dict(Rows=None),
    dict(ImageOrientationPatient=['1','0','0','1','0','0']), dict(ImagePositionPatient=['1','2']), dict(SamplesPerPixel=3, PhotometricInterpretation='RGB')], ids=str)
def test_impossible_headers_are_skipped(tmp_path, tags):
    write_series(tmp_path/'s', sagittal((4,6,5))); write_slice(tmp_path/'s/9.dcm', sagittal((9,6,5)), 8, **tags)
    v, = read_dicom(tmp_path/'s')
    assert len(v.data)==4 and len(v.meta['problems'])==1
    with pytest.raises(InputError): read_dicom(tmp_path/'s/9.dcm')

@pytest.mark.filterwarnings('ignore')
def test_damaged_bytes_never_raise_anything_else(tmp_path):
    rng = np.random.default_rng(1)
    good = write_slice(tmp_path/'1.dcm', sagittal(), 0).read_bytes()
    read = 0
    for _ in range(300):
        raw = bytearray(good)
        for i in rng.integers(0, len(raw)-300, rng.integers(1,12)): raw[i] = rng.integers(256)
        (tmp_path/'1.dcm').write_bytes(raw[:rng.integers(200,len(raw)+1)] if rng.random()<.3 else raw)
        try: v, = read_dicom(tmp_path/'1.dcm'); read += 1; assert np.isfinite(v.affine).all() and v.data.ndim==3
        except InputError: pass
        dicom_problem(tmp_path/'1.dcm')
    assert 0<read<300

def test_no_patient_name_is_kept(tmp_path):
    write_series(tmp_path/'s', sagittal()); (tmp_path/'s/3.dcm').write_bytes((tmp_path/'s/3.dcm').read_bytes()[:600])
    v, = read_series(tmp_path/'s', tmp_path/'cache')
    kept, = (tmp_path/'cache').iterdir()
    assert 'Doe' not in repr(v.meta) and 'secret' not in repr(v.meta) and b'Doe' not in kept.read_bytes()

# The cache

@pytest.mark.parametrize('harm', ['cut','bit','header','garbage','empty','swap','directory'])
def test_damaged_cache_is_made_again(tmp_path, harm):
    series,cache = write_series(tmp_path/'s', sagittal()),tmp_path/'cache'
    read_series(series, cache)
    kept, = cache.iterdir(); raw = kept.read_bytes()
    flipped = bytearray(raw); flipped[-9] ^= 4
    moved = raw.replace(b'-11.3', b'-99.3'); assert moved!=raw
    if harm=='swap':
        read_series(write_series(tmp_path/'other', sagittal(seed=9)), tmp_path/'other-cache')
        shutil.copy(next((tmp_path/'other-cache').iterdir()), kept)
    elif harm=='directory': kept.unlink(); kept.mkdir()
    else: kept.write_bytes(dict(cut=raw[:-50], bit=bytes(flipped), header=moved, garbage=os.urandom(500), empty=b'')[harm])
    again, = read_series(series, cache)
    assert np.array_equal(again.data, sagittal().data) and np.allclose(again.affine, sagittal().affine)

def test_cache_notices_a_changed_file(tmp_path):
    series = write_series(tmp_path/'s', sagittal())
    read_series(series, tmp_path/'cache')
    for k in range(5): write_slice(series/f'{k+1}.dcm', sagittal(seed=3), k)
    assert np.array_equal(read_series(series, tmp_path/'cache')[0].data, sagittal(seed=3).data)

def test_a_cache_that_cannot_be_written_does_not_matter(tmp_path):
    (tmp_path/'cache').write_text('a file, no folder')
    assert read_series(write_series(tmp_path/'s', sagittal()), tmp_path/'cache')[0].shape==(5,12,10)

def test_two_processes_share_a_cache(tmp_path):
    series = write_series(tmp_path/'s', sagittal((5,64,64)))
    code = f"from lumbar_nbdev.volume import read_series\nfor _ in range(5): v, = read_series({str(series)!r}, {str(tmp_path/'cache')!r})\nprint(int(v.data.sum()))"
    both = [subprocess.Popen([sys.executable,'-c',code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [int(p.communicate(timeout=60)[0]) for p in both]==[int(sagittal((5,64,64)).data.sum())]*2
    assert len(list((tmp_path/'cache').iterdir()))==1

# Image files

@pytest.mark.parametrize('order', list(itertools.permutations(range(3))), ids=str)
def test_every_order_and_flip_of_axes_comes_back(tmp_path, order):
    rng = np.random.default_rng(sum(order)+order[0])
    for n,flips in enumerate(itertools.product((1,-1), repeat=3)):
        direction = rotated(rng, 8)[:,order]*flips
        image = sitk.GetImageFromArray(rng.integers(-1000,3000,(4,6,5)).astype(np.int16))
        image.SetOrigin(rng.uniform(-90,90,3).tolist()); image.SetSpacing([.7,3.3,.5]); image.SetDirection(direction.ravel().tolist())
        sitk.WriteImage(image, str(tmp_path/'a.mha'))
        for plane,axis,sense in (('sagittal',0,1),('coronal',1,1),('axial',2,1)):
            v = read_image(tmp_path/'a.mha', plane)
            cosines = v.affine[:3,:3]/v.spacing
            assert v.plane==plane and cosines[axis,0]>.8
            assert all(cosines[a,i+1]*s>.8 for i,(a,s) in enumerate(dict(sagittal=((2,-1),(1,1)), coronal=((2,-1),(0,1)), axial=((1,1),(0,1)))[plane]))
            index = [int(i) for i in rng.integers(0, image.GetSize())]
            voxel = v.to_voxel(image.TransformIndexToPhysicalPoint(index))
            assert np.allclose(voxel, voxel.round(), atol=1e-4) and v.data[tuple(voxel.round().astype(int))]==image[index]
            b = sitk.ReadImage(str(write_image(v, tmp_path/'b.mha')))
            assert np.array_equal(sitk.GetArrayFromImage(b), sitk.GetArrayFromImage(image)) and b.GetPixelID()==image.GetPixelID()
            for fact in ('GetOrigin','GetSpacing','GetDirection'): assert np.allclose(getattr(b,fact)(), getattr(image,fact)(), atol=1e-9)

def test_the_coarsest_axis_is_sliced_by_default(tmp_path):
    v = sagittal()
    write_image(Volume(v.data, v.affine, dict(axes=[[2,1],[0,-1],[1,1]])), tmp_path/'a.nii.gz')
    back = read_image(tmp_path/'a.nii.gz')
    assert back.plane=='sagittal' and np.array_equal(back.data, v.data) and np.allclose(back.affine, v.affine, atol=1e-4)

def test_images_that_are_none(tmp_path):
    (tmp_path/'text.mha').write_text('hello'); write_image(sagittal(), tmp_path/'good.mha')
    (tmp_path/'cut.mha').write_bytes((tmp_path/'good.mha').read_bytes()[:-200])
    sitk.WriteImage(sitk.Image(5,5,sitk.sitkUInt8), str(tmp_path/'flat.mha')); sitk.WriteImage(sitk.Image([4,4,4,2],sitk.sitkUInt8), str(tmp_path/'four.mha'))
    sitk.WriteImage(sitk.Image([4,4,4],sitk.sitkVectorUInt8,3), str(tmp_path/'colour.mha'))
    for name in ('text','cut','flat','four','colour','nowhere'):
        with pytest.raises(InputError) as e: read_image(tmp_path/f'{name}.mha')
        assert '\n' not in str(e.value)
    with pytest.raises(InputError, match="end it in .mha"): write_image(sagittal(), tmp_path/'a.png')

def test_writing_leaves_nothing_half_written(tmp_path, monkeypatch):
    out = tmp_path/'out'; out.mkdir()
    monkeypatch.setattr(sitk, 'WriteImage', lambda image,name,packed: Path(name).write_bytes(b'ObjectType = Image') and None)
    with pytest.raises(InputError, match='is the disk full'): write_image(sagittal(), out/'a.mha')
    (out/'file').write_text('')
    with pytest.raises(InputError): write_image(sagittal(), out/'file'/'a.mha')
    assert [p.name for p in out.iterdir()]==['file']

def test_resampling_keeps_masks_and_single_slices():
    v = sagittal((5,40,30), turn=rotated(np.random.default_rng(2), 5))
    grid = v.standard_grid(.5, (64,64))
    mask = Volume((v.data%4*100).astype(np.uint16), v.affine)
    assert set(np.unique(mask.resample(*grid, order=0).data))<={0,100,200,300}
    one = Volume(v.data[:1]+1, v.affine)
    assert (one.resample(*one.standard_grid(.7,(20,20))).data>0).all(), "the only slice must not be taken for outside"
    same = v.resample(v.affine, v.shape)
    assert np.array_equal(same.data, v.data)

def test_standard_grid_turns_pictures_the_usual_way():
    v = sagittal()
    for flip_rows,flip_columns,swap in itertools.product((1,-1),(1,-1),(0,1)):
        a = v.affine.copy(); a[:,1] *= flip_rows; a[:,2] *= flip_columns
        if swap: a[:,[1,2]] = a[:,[2,1]]
        affine,shape = Volume(v.data, a).standard_grid(1, (8,8))
        assert affine[2,1]==-1 and affine[1,2]==1 and np.allclose(affine[:3,0], v.affine[:3,0]) and shape==(5,8,8)

@pytest.mark.parametrize('data', [np.zeros((2,3)), np.full(4,np.nan), np.array([1,np.inf,2,3,-np.inf]), np.zeros(0), np.array([5,5,5,6])], ids=str)
def test_normalise_is_always_finite(data):
    out = normalise(data)
    assert out.dtype==np.float32 and out.shape==data.shape and np.isfinite(out).all() and ((out>=0)&(out<=1)).all()

# Real DICOM files

@needs_dicom
def test_real_classic_and_enhanced_series():
    classic, = read_dicom(DICOM/'classic'); enhanced, = read_dicom(DICOM/'enhanced'/'5_Product_EPI_Sag_Ascending')
    assert (classic.shape,enhanced.shape)==((20,86,86),(63,86,86)) and classic.plane==enhanced.plane=='sagittal'
    assert np.allclose(classic.affine, enhanced.affine, atol=1e-4) and not classic.meta['problems']+enhanced.meta['problems']
    for v,image in ((classic,itk_series(DICOM/'classic')), (enhanced,itk_series(DICOM/'enhanced'/'5_Product_EPI_Sag_Ascending'))):
        assert apart(itk_corners(image), corners(v))<1e-3

@needs_dicom
def test_real_transfer_syntaxes_hold_the_same_numbers():
    from lumbar_nbdev.volume import _pixels
    files = {p.name: _pixels(pydicom.dcmread(p)) for p in sorted((DICOM/'pydicom_data').glob('*.dcm'))}
    assert len(files)==9
    for name in ('RLE','big_endian','jpeg_2k_lossless','jpeg_ls_lossless'): assert np.array_equal(files[f'emri_small_{name}.dcm'], files['emri_small.dcm'])
    assert np.array_equal(files['MR2_J2KR.dcm'], files['MR2_UNCR.dcm'])
    assert np.abs(files['MR2_J2KI.dcm'].astype(int)-files['MR2_UNCR.dcm']).max()<60

@needs_dicom
@pytest.mark.parametrize('name', ['MR-SIEMENS-DICOM-WithOverlays','MR2_J2KI','MR2_J2KR','MR2_UNCR'])
def test_real_single_slices(name):
    path = DICOM/'pydicom_data'/f'{name}.dcm'
    v, = read_dicom(path)
    image = sitk.ReadImage(str(path))
    assert apart(itk_corners(image), corners(v))<1e-3 and np.allclose(sitk.GetArrayFromImage(image), v.data, atol=1e-2) and not dicom_problem(path)

@needs_dicom
def test_real_files_without_geometry_are_refused():
    for path in (DICOM/'pydicom_data').glob('emri_small*.dcm'):
        with pytest.raises(InputError, match='no position, orientation or pixel spacing'): read_dicom(path)
