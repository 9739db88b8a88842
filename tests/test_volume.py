"DICOM, the cache and image files: faults, odd files and odd orders that a notebook cannot show."
import itertools,os,random,shutil,signal,subprocess,sys,time,zlib
from pathlib import Path
import numpy as np
import pydicom,pytest
import SimpleITK as sitk
from pydicom.uid import ExplicitVRLittleEndian
from lumbar_nbdev import volume as module
from lumbar_nbdev.core import *
from lumbar_nbdev.volume import *
from fuzz import META,enhanced,meta_image,packed
from helpers import DICOM,apart,corners,itk_corners,itk_series,needs_dicom,own_cache,quiet,rotated,sagittal,write_series,write_slice

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
    files = {p.name: pydicom.dcmread(p).pixel_array for p in sorted((DICOM/'pydicom_data').glob('*.dcm'))}
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

# Plain files

@pytest.mark.parametrize('bits', [8,12,16,32])
@pytest.mark.parametrize('kind', 'ui')
@pytest.mark.parametrize('extra', [{}, dict(PhotometricInterpretation='MONOCHROME1'), dict(RescaleSlope='2.5', RescaleIntercept='-1024'), dict(PatientComments='x'*5000)], ids=['simple','inverted','rescaled','long header'])
def test_the_short_walk_agrees_with_pydicom(tmp_path, monkeypatch, bits, kind, extra):
    size = {8:8,32:32}.get(bits,16)
    low,high = (-(1<<bits-1),(1<<bits-1)-1) if kind=='i' else (0,(1<<bits)-1)
    v = Volume(np.random.default_rng(bits).integers(low, high, (3,8,6), endpoint=True).astype(f'{kind}{size//8}'), sagittal().affine)
    write_series(tmp_path/'s', v, BitsAllocated=size, BitsStored=bits, HighBit=bits-1, **extra)
    slow = [module._pydicom_slices(p) for p in sorted((tmp_path/'s').iterdir())]
    monkeypatch.setattr(pydicom, 'dcmread', None) # so that only the short walk can read
    fast = [module._plain_slices(p) for p in sorted((tmp_path/'s').iterdir())]
    assert [f[0][1:] for f in fast]==[s[0][1:] for s in slow] and np.array_equal(module._filled([f[0] for f in fast]), [s[0].pixels for s in slow])
    read, = read_dicom(tmp_path/'s')
    want = v.data.astype(float)
    if 'PhotometricInterpretation' in extra: want = (-1 if kind=='i' else high)-want
    if 'RescaleSlope' in extra: want = want*2.5-1024
    assert np.allclose(read.data, want, rtol=1e-6) and read.data.dtype in (np.uint8,np.uint16,np.int16,np.float32)

def test_unused_bits_are_cleared(tmp_path):
    v = sagittal()
    for kind in 'ui':
        clean = Volume((v.data.astype(int)%4096-(2048 if kind=='i' else 0)).astype(f'{kind}2'), v.affine)
        dirty = Volume((clean.data.view(np.uint16)&0x0fff|0xa000).view(f'{kind}2'), v.affine)
        assert np.array_equal(read_dicom(write_series(tmp_path/kind, dirty, BitsStored=12, HighBit=11))[0].data, clean.data)

def test_slices_may_differ_in_bits_and_polarity(tmp_path):
    v = sagittal()
    for k in range(5): write_slice(tmp_path/f's/{k}.dcm', v if k%2 else Volume(4095-v.data, v.affine), k, PhotometricInterpretation=f'MONOCHROME{1+k%2}', BitsStored=12 if k!=3 else 16, HighBit=11 if k!=3 else 15)
    back, = read_dicom(tmp_path/'s')
    assert np.array_equal(back.data, v.data)

def test_each_slice_has_its_own_rescaling(tmp_path):
    v = sagittal()
    for k in range(5): write_slice(tmp_path/f's/{k}.dcm', v, k, RescaleSlope=str(1+k/2), RescaleIntercept=str(-k))
    assert np.allclose(read_dicom(tmp_path/'s')[0].data, v.data*(1+np.arange(5)/2)[:,None,None]-np.arange(5)[:,None,None])

def test_what_is_missing_does_not_matter(tmp_path):
    plenty = dict(SpacingBetweenSlices='4.4', SliceThickness='4', SeriesDescription='Sagittal T1', WindowCenter='500', WindowWidth='900', StudyDescription='L spine')
    full,bare = read_dicom(write_series(tmp_path/'full', sagittal(), **plenty))[0],read_dicom(write_series(tmp_path/'bare', sagittal(), Modality=None, SOPClassUID=None))[0]
    assert np.array_equal(full.data, bare.data) and np.allclose(full.affine, bare.affine) and full.meta['problems']==bare.meta['problems']==[]

# Layouts

def axial_block(centre, tilt, slices=5, seed=0):
    "Axial slices 4 mm apart about a centre, tilted by degrees about the left-right axis."
    a = np.deg2rad(tilt); back,up = np.array([0,np.cos(a),np.sin(a)]),np.array([0,-np.sin(a),np.cos(a)])
    return Volume(np.random.default_rng(seed).integers(0,4000,(slices,16,16)).astype(np.uint16), make_affine(np.array(centre)-8*back-np.array([8,0,0])-2*slices*up, 4*up, back, (1,0,0)))

@pytest.mark.parametrize('tilt', [1,3,25])
def test_a_tilted_block_becomes_its_own_volume(tmp_path, tilt):
    straight,tilted = axial_block((0,0,0),5,12),axial_block((0,4,-40),5+tilt,5,1)
    write_series(tmp_path/'s', straight); write_series(tmp_path/'s', tilted, start=12)
    found = read_dicom(tmp_path/'s')
    assert [len(v.data) for v in found]==[12,5] and all(np.array_equal(v.data,w.data) and np.allclose(v.affine,w.affine,atol=1e-4) for v,w in zip(found,(straight,tilted)))
    assert found[0].meta['instances']==list(range(1,13)) and found[1].meta['instances']==list(range(13,18))

def test_parallel_blocks_with_gaps_and_one_tilted(tmp_path):
    blocks = [axial_block((0,0,-36*i),4,4,i) for i in range(4)]+[axial_block((0,6,-150),29,4,9)]
    for i,b in enumerate(blocks): write_series(tmp_path/'s', b, start=10*i)
    found = read_dicom(tmp_path/'s')
    assert len(found)==5 and {v.data.tobytes() for v in found}=={b.data.tobytes() for b in blocks}

def test_slightly_rounded_orientations_stay_together(tmp_path):
    v = sagittal((6,12,10), turn=rotated(np.random.default_rng(3)))
    for k in range(6): write_slice(tmp_path/f's/{k}.dcm', v, k, ImageOrientationPatient=[f'{x:.{3+k%4}f}' for a in (2,1) for x in v.affine[:3,a]/v.spacing[a]])
    back, = read_dicom(tmp_path/'s')
    assert np.array_equal(back.data, v.data)

def test_two_echoes_become_two_volumes_and_copies_are_dropped(tmp_path):
    first,second = sagittal(seed=1),sagittal(seed=2)
    for k in range(5): write_slice(tmp_path/f's/{2*k}.dcm', first, k, InstanceNumber=2*k+1); write_slice(tmp_path/f's/{2*k+1}.dcm', second, k, InstanceNumber=2*k+2)
    a,b = read_dicom(tmp_path/'s')
    assert np.array_equal(a.data, first.data) and np.array_equal(b.data, second.data) and b.meta['instances']==[2,4,6,8,10] and 'met 2 times' in a.meta['problems'][0]
    write_series(tmp_path/'c', first); [shutil.copy(p, p.with_name('copy'+p.name)) for p in list((tmp_path/'c').iterdir())]
    v, = read_dicom(tmp_path/'c')
    assert np.array_equal(v.data, first.data) and v.meta['problems']==['5 of 10 files are copies of others and were dropped']

def test_what_cannot_be_opened_now_is_not_kept_as_unreadable(tmp_path, monkeypatch):
    def locked(path): raise PermissionError(13, 'Permission denied')
    with monkeypatch.context() as m, pytest.raises(InputError, match='cannot be opened at present'):
        m.setattr(module.os, 'scandir', locked); read_dicom(tmp_path)
    (tmp_path/'s').mkdir(); (tmp_path/'s/0.txt').write_text('no picture'); (tmp_path/'s/1.dcm').write_bytes(b'x'*200)
    real = module._slices
    def busy(f):
        if f.name=='1.dcm': raise OSError(5, 'Input/output error')
        return real(f)
    monkeypatch.setattr(module, '_slices', busy)
    assert isinstance(read_study([tmp_path/'s'], tmp_path/'cache')[0], InputError) and not list((tmp_path/'cache').glob('*.safetensors'))

def test_floats_with_nan_are_written_and_read_arrays_can_be_written_to(tmp_path):
    data = np.arange(24, dtype=np.float32).reshape(2,3,4); data[0,0,0] = np.nan
    back = read_image(write_image(Volume(data, np.eye(4), {}), tmp_path/'v.mha'))
    assert np.isnan(back.data).sum()==1 and np.array_equal(np.sort(back.data, axis=None)[:-1], np.arange(1,24)) and back.data.flags.writeable

def test_enhanced_frames_in_any_order_and_direction(tmp_path):
    ds = enhanced(6); groups = ds.PerFrameFunctionalGroupsSequence
    ds.PerFrameFunctionalGroupsSequence = [groups[i] for i in (3,0,4,1,5,2)]
    ds.save_as(tmp_path/'1.dcm', enforce_file_format=True)
    v, = read_dicom(tmp_path/'1.dcm')
    raw = ds.pixel_array; order = [1,3,5,0,2,4]
    assert np.array_equal(v.data, raw[order]) and v.meta['instances']==[i+1 for i in order] and np.allclose(v.affine[:3,0], (4.4,0,0), atol=1e-4)

def test_enhanced_frames_with_their_own_orientation(tmp_path):
    from pydicom.dataset import Dataset
    ds = enhanced(8)
    for i,frame in enumerate(ds.PerFrameFunctionalGroupsSequence):
        turn = Dataset(); turn.ImageOrientationPatient = ['0','1','0','0','0','-1'] if i%2 else ['1','0','0','0','1','0']
        frame.PlaneOrientationSequence = [turn]
        frame.PlanePositionSequence[0].ImagePositionPatient = [str(4*(i//2)),'0','0'] if i%2 else ['0','0',str(5*(i//2))]
    del ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
    ds.save_as(tmp_path/'1.dcm', enforce_file_format=True)
    found = {v.plane: v for v in read_dicom(tmp_path/'1.dcm')}
    assert found['axial'].meta['instances']==[1,3,5,7] and found['sagittal'].meta['instances']==[2,4,6,8]
    assert np.isclose(found['axial'].spacing[0],5) and np.isclose(found['sagittal'].spacing[0],4)
    for v in found.values(): assert np.array_equal(v.data, ds.pixel_array[np.array(v.meta['instances'])-1])

def all_layouts(): return [(order,flips) for order in itertools.permutations(range(3)) for flips in itertools.product((1,-1), repeat=3)]

def landmarks(v):
    "The millimetres of three marks of different brightness."
    return np.array([v.to_world(np.argwhere(v.data==m)).mean(0) for m in (1000,2000,3000)])

def test_all_48_layouts_hold_the_same_anatomy(tmp_path):
    data = np.random.default_rng(0).integers(0,900,(7,9,8)).astype(np.uint16)
    data[5,1,2],data[1,7,1],data[2,3,6] = 1000,2000,3000
    v = Volume(data, make_affine((-9,-20,30), (3,.3,0), (0,.2,-2), (-.1,1.5,.1)))
    steps = v.affine[:3,:3]; q,_ = np.linalg.qr(steps); v.affine[:3,:3] = q*np.sign(np.diag(q.T @ steps))*np.linalg.norm(steps, axis=0) # made upright
    want = landmarks(v)
    for n,(order,flips) in enumerate(all_layouts()):
        axes = [[a,f] for a,f in zip(order,flips)]
        turned = Volume(*module._turned(v.data, v.affine, axes))
        assert np.allclose(landmarks(turned), want)
        back, = read_dicom(write_series(tmp_path/f'{n}', turned, random.Random(n).sample(range(turned.shape[0]), turned.shape[0])))
        write_image(Volume(v.data, v.affine, dict(axes=axes)), tmp_path/'a.mha')
        for found in (back, *(read_image(tmp_path/'a.mha', p) for p in (None,'sagittal','coronal','axial'))):
            assert np.allclose(landmarks(found), want, atol=1e-4), (order,flips)
            side = found.laterality(midline=0)[[np.argwhere(found.data==m)[0][0] for m in (1000,2000)]] if found.plane=='sagittal' else None
            assert side is None or np.allclose(side, want[:2,0], atol=1.5), "left stays left"

# Compressed files

def encoded(folder, v, name, **tags):
    plain = write_series(folder/'plain', v, **tags); (folder/'packed').mkdir()
    return folder/'packed' if all([packed(f, folder/'packed'/f.name, name) for f in plain.iterdir()]) else None

@pytest.mark.parametrize('bits,kind', [(8,'u'),(12,'u'),(16,'u'),(12,'i'),(16,'i')])
@pytest.mark.parametrize('name', ['JPEGLosslessProcess14','JPEGLosslessProcess14_1','JPEGLSLossless','JPEG2000Lossless','RLELossless'])
def test_bits_and_signs_survive_compression(tmp_path, name, bits, kind):
    pytest.importorskip('gdcm')
    low,high = (-(1<<bits-1),(1<<bits-1)-1) if kind=='i' else (0,(1<<bits)-1)
    ramp = np.linspace(low, high, 2*24*16).round().astype(f'{kind}{1 if bits==8 else 2}').reshape(2,24,16)
    v = Volume(ramp[:,::-1], sagittal().affine)
    folder = encoded(tmp_path, v, name, BitsAllocated=8 if bits==8 else 16, BitsStored=bits, HighBit=bits-1)
    if folder is None: pytest.skip(f"GDCM does not write {name} with {bits} {'signed' if kind=='i' else ''} bits")
    back, = read_dicom(folder)
    assert np.array_equal(back.data, v.data) and back.data.dtype==v.data.dtype

@pytest.fixture
def compressed(tmp_path):
    pytest.importorskip('gdcm')
    return encoded(tmp_path, sagittal((3,32,24)), 'JPEG2000Lossless')

def test_a_decoder_that_dies_costs_one_file(compressed, monkeypatch):
    want = read_dicom(compressed)[0].data
    module._decoder.child.kill(); module._decoder.child.wait()
    assert np.array_equal(read_dicom(compressed)[0].data, want), "a child that died idle is no file's fault"
    start = module._decoder.start
    def dying(): start(); os.kill(module._decoder.child.pid, signal.SIGSTOP); module._decoder.child.send_signal(signal.SIGKILL)
    monkeypatch.setattr(module._decoder, 'start', dying)
    with pytest.raises(InputError, match='damaged pixels: decoding them fails'): read_dicom(compressed)
    monkeypatch.undo()
    assert np.array_equal(read_dicom(compressed)[0].data, want)

def test_a_decoder_that_hangs_costs_one_file(compressed, monkeypatch):
    want,start = read_dicom(compressed)[0].data,module._decoder.start
    def stopped(): start(); os.kill(module._decoder.child.pid, signal.SIGSTOP)
    monkeypatch.setattr(module, '_SECONDS', .2); monkeypatch.setattr(module, '_START', .1); monkeypatch.setattr(module._decoder, 'start', stopped)
    begin = time.time()
    with pytest.raises(InputError, match='takes too long'): read_dicom(sorted(compressed.iterdir())[0])
    assert time.time()-begin<5
    monkeypatch.undo()
    assert np.array_equal(read_dicom(compressed)[0].data, want)

def test_forked_processes_decode_for_themselves(compressed):
    want = read_dicom(compressed)[0].data
    children = []
    for _ in range(2):
        pid = os.fork()
        if not pid: os._exit(0 if all(np.array_equal(read_dicom(compressed)[0].data, want) for _ in range(2)) else 1)
        children.append(pid)
    assert np.array_equal(read_dicom(compressed)[0].data, want)
    assert [os.waitpid(pid,0)[1] for pid in children]==[0,0]

def test_a_deflated_bomb_is_refused(tmp_path, monkeypatch):
    from pydicom.uid import DeflatedExplicitVRLittleEndian
    good = tmp_path/'1.dcm'; write_slice(good, sagittal(), 0)
    raw = good.read_bytes(); end = 144+int.from_bytes(raw[140:144],'little')
    meta = raw[:end].replace(b'1.2.840.10008.1.2.1\0', b'1.2.840.10008.1.2.1.99'); at = meta.index(b'1.2.840.10008.1.2.1.99')
    meta = meta[:at-2]+(22).to_bytes(2,'little')+meta[at:]
    packer = zlib.compressobj(wbits=-15); body = packer.compress(raw[end:])+packer.flush(zlib.Z_FULL_FLUSH)
    nothing = packer.compress(bytes(1<<24))+packer.flush(zlib.Z_FULL_FLUSH)
    good.write_bytes(meta+body+nothing*1000+packer.flush()) # 16 GB of nothing
    monkeypatch.setattr(module, '_MEMORY', 3<<29); module._decoder.stop()
    with pytest.raises(InputError, match='memory|fails'): read_dicom(good)
    module._decoder.stop()

@needs_dicom
def test_every_real_file_is_read_or_refused_in_one_sentence():
    read = refused = 0
    for p in sorted(DICOM.rglob('*')):
        if not p.is_file(): continue
        try: vs = read_dicom(p); read += 1; assert all(v.data.size and np.isfinite(v.affine).all() for v in vs)
        except InputError as e: refused += 1; assert '\n' not in str(e) and (p.name.startswith('emri_small') or p.name=='LICENSE')
    assert (read,refused)==(25,7)

# The cache of a study

@pytest.fixture
def study(tmp_path):
    "Two good series and one that cannot be read."
    (tmp_path/'bad').mkdir(); (tmp_path/'bad/1.dcm').write_text('no image')
    return [write_series(tmp_path/'a', sagittal((12,128,128))), tmp_path/'bad', write_series(tmp_path/'b', sagittal((9,128,96), 1))]

def same(found, other):
    return all(str(x)==str(y) if isinstance(x,InputError) else all(np.array_equal(v.data,w.data) and v.meta==w.meta and np.array_equal(v.affine,w.affine) for v,w in zip(x,y, strict=True)) for x,y in zip(found,other, strict=True))

def test_a_study_is_one_mapped_file(study, tmp_path):
    first,again = read_study(study, tmp_path/'cache'),read_study(study, tmp_path/'cache')
    assert same(first, again) and [type(x) for x in again]==[list,InputError,list] and 'not a DICOM file' in str(again[1]) and '\n' not in str(again[1])
    assert len(list((tmp_path/'cache').iterdir()))==1
    for vs in (*first[::2],*again[::2]):
        with pytest.raises(ValueError, match='read-only'): vs[0].data[0,0,0] = 1
    base = again[0][0].data
    while isinstance(base, np.ndarray): base = base.base
    assert isinstance(getattr(base,'obj',base), __import__('mmap').mmap), "mapped, not copied"
    from safetensors.numpy import load_file
    assert np.array_equal(load_file(next((tmp_path/'cache').iterdir()))['0'], sagittal((12,128,128)).data), "any safetensors reader can open it"

def test_what_changes_is_read_again_and_nothing_piles_up(study, tmp_path, monkeypatch):
    cache = tmp_path/'cache'; read_study(study, cache)
    for change in (lambda: write_slice(study[0]/'1.dcm', sagittal((12,128,128), 7), 0, uid='1.2.3'), lambda: (study[0]/'12.dcm').unlink(), lambda: os.utime(study[2]/'1.dcm', (1,1)), lambda: write_slice(study[1]/'2.dcm', sagittal(), 1),
                   lambda: shutil.rmtree(study[2]), lambda: monkeypatch.setattr(module, '_reading_code', lambda: 'new code')):
        before = next(cache.iterdir()).read_bytes(); change()
        assert same(read_study(study, cache), [module._tried(f) for f in study]) and len(list(cache.iterdir()))==1 and next(cache.iterdir()).read_bytes()!=before
    assert isinstance(read_study(study, cache)[1], list) and isinstance(read_study(study, cache)[2], InputError)

@pytest.mark.parametrize('at', range(12))
def test_no_damaged_byte_is_believed(study, tmp_path, at):
    cache = tmp_path/'cache'; want = read_study(study[1:2] if at==11 else study, cache)
    kept, = cache.iterdir(); raw = kept.read_bytes(); rng = np.random.default_rng(at)
    for _ in range(12):
        i = int(rng.integers(8)) if at==0 else int(rng.integers(8,2000)) if at<6 or at==11 else int(rng.integers(len(raw)))
        hurt = bytearray(raw); hurt[i%len(raw)] ^= 1<<int(rng.integers(8)); kept.unlink(); kept.write_bytes(hurt)
        found = module._load_study(module.files_stamp(study[1:2] if at==11 else study), kept)
        assert found is None or same(found, want)
    kept.unlink(); kept.write_bytes(raw[:int(rng.integers(len(raw)))])
    assert module._load_study(module.files_stamp(study), kept) is None

def test_killed_while_caching(study, tmp_path):
    "A process killed at a random moment leaves no file that is believed, and the next run ends as an undisturbed one."
    write_series(study[1], sagittal((20,400,400)), uid='1.2.3'); read_study(study, tmp_path/'calm'); kept = next((tmp_path/'calm').iterdir()); want = kept.read_bytes(); cache = tmp_path/'cache'
    rng,killed = np.random.default_rng(0),0
    for _ in range(int(os.environ.get('LUMBAR_KILLS', 8))):
        pid = os.fork()
        if not pid:
            while True: read_study(study, cache); (cache/kept.name).unlink()
        time.sleep(rng.uniform(.002,.08)); os.kill(pid, signal.SIGKILL); killed += os.waitstatus_to_exitcode(os.waitpid(pid,0)[1])==-signal.SIGKILL
        if (cache/kept.name).exists(): assert (cache/kept.name).read_bytes()==want
        assert same(read_study(study, cache), read_study(study, tmp_path/'calm')) and (cache/kept.name).read_bytes()==want
        (cache/kept.name).unlink()
    assert killed==int(os.environ.get('LUMBAR_KILLS', 8)) and (killed<50 or list(cache.glob('.*tmp*'))), "of 50 some must have been hit while they wrote"
    left = cache/'.tmpabc123'; left.write_bytes(want[:99]); [os.utime(p, (1,1)) for p in cache.glob('.*tmp*')]; fresh = cache/f'.{kept.name}.tmp-2-abc'; fresh.write_bytes(b'')
    module._swept.cache_clear(); read_study(study, cache)
    assert sorted(p.name for p in cache.iterdir())==sorted([fresh.name,kept.name]) and (cache/kept.name).read_bytes()==want

def test_two_writers_at_once(study, tmp_path):
    want,pids = read_study(study, tmp_path/'calm'),[]
    for _ in range(4):
        pid = os.fork()
        if not pid: os._exit(0 if all(same(read_study(study, tmp_path/'cache'), want) for _ in range(4)) else 1)
        pids.append(pid)
    assert [os.waitpid(p,0)[1] for p in pids]==[0]*4 and [p.name for p in (tmp_path/'cache').iterdir()]==[p.name for p in (tmp_path/'calm').iterdir()]

def test_a_file_that_cannot_be_opened_for_now_is_tried_again(study, tmp_path, monkeypatch):
    slices = module._slices
    def failing(path):
        if path.name=='3.dcm': raise PermissionError(13, 'Permission denied')
        return slices(path)
    monkeypatch.setattr(module, '_slices', failing)
    found = read_study(study, tmp_path/'cache')
    assert '3.dcm: cannot be opened at present (Permission denied)' in found[0][0].meta['problems'] and not list((tmp_path/'cache').glob('*.safetensors'))
    monkeypatch.undo(); log.setLevel('ERROR')
    assert read_study(study, tmp_path/'cache')[0][0].meta['problems']==[] and len(list((tmp_path/'cache').glob('*.safetensors')))==1

# Image files that are not to be believed

VOXELS = np.arange(480, dtype='<i2').tobytes()

@pytest.mark.parametrize('change,words', [(dict(DimSize='20000 20000 10000'),'promises 8000000000000'), (dict(DimSize='20000 20000 10000',CompressedData='True'),'more voxels than the file can hold'), (dict(DimSize='10 8 7'),'promises 1120'), (dict(DimSize='10 8 5'),'promises 800'), (dict(DimSize='10 8 -6'),''),
    (dict(DimSize='10.5 8 6'),''), (dict(DimSize='10 8'),'DimSize'), (dict(ElementSpacing=None),'ElementSpacing is missing'), (dict(TransformMatrix=None),'TransformMatrix is missing'), (dict(Offset=None),'Offset is missing'),
    (dict(ElementSpacing='0.7 nan 4'),'impossible'), (dict(ElementSpacing='0.7 0 4'),''), (dict(Offset='inf 0 0'),''), (dict(TransformMatrix='1 0 0 0 1 0 0 1 0'),'impossible'), (dict(TransformMatrix='nan 0 0 0 1 0 0 0 1'),'impossible'),
    (dict(ElementDataFile='../secret.raw'),'own folder'), (dict(ElementDataFile='/etc/passwd'),'own folder'), (dict(ElementDataFile='link.raw'),'own folder'), (dict(ElementDataFile='LIST'),'own folder'),
    (dict(ElementDataFile='v%02d.raw 1 6 1'),'own folder'), (dict(ElementDataFile='none.raw'),'own folder'), (dict(Position='1 2 3'),'given twice'), (dict(NDims='4'),'NDims is not 3'), (dict(NDims='2'),'NDims is not 3'), (dict(BinaryData='False'),'BinaryData'),
    (dict(ElementNumberOfChannels='3'),''), (dict(ElementType='MET_STRING'),''), (dict(CompressedData='True'),'')], ids=str)
def test_metaimage_headers_that_are_refused(tmp_path, change, words):
    folder = tmp_path/'in'; folder.mkdir(); (tmp_path/'secret.raw').write_bytes(VOXELS); (folder/'link.raw').symlink_to('../secret.raw')
    header = {k:v for k,v in (META|change).items() if v is not None}
    header = {k:v for k,v in header.items() if k!='ElementDataFile'}|dict(ElementDataFile=header['ElementDataFile'])
    begin = time.time()
    for name in ('a.mha','a.mhd'):
        (folder/name).write_bytes(meta_image(header, VOXELS))
        with pytest.raises(InputError) as e: read_image(folder/name)
        assert words in str(e.value) and '\n' not in str(e.value)
    assert time.time()-begin<5

def test_metaimage_with_its_voxels_beside_it(tmp_path):
    (tmp_path/'a.mhd').write_bytes(meta_image(META|dict(ElementDataFile='a.raw'), b'')); (tmp_path/'a.raw').write_bytes(VOXELS)
    (tmp_path/'b.mha').write_bytes(meta_image(META, VOXELS))
    a,b = read_image(tmp_path/'a.mhd'),read_image(tmp_path/'b.mha')
    assert np.array_equal(a.data, b.data) and np.array_equal(a.affine, b.affine)

@pytest.mark.parametrize('suffix', ['.mha','.nii','.nii.gz','.nrrd'])
def test_cut_and_boasting_images(tmp_path, suffix):
    rng = np.random.default_rng(0); v = Volume(rng.integers(0,4000,(6,20,20)).astype(np.int16), sagittal().affine)
    path = write_image(v, tmp_path/f'a{suffix}'); raw = path.read_bytes()
    for keep in (0,10,100,len(raw)//2,len(raw)-30):
        path.write_bytes(raw[:keep])
        with pytest.raises(InputError) as e: read_image(path)
        assert '\n' not in str(e.value)
    if suffix=='.nii':
        boast = bytearray(raw); boast[42:48] = np.array([32000,32000,32000],'<i2').tobytes(); path.write_bytes(boast)
        with pytest.raises(InputError, match='more voxels than the file can hold'): read_image(path)
    if suffix=='.nrrd':
        path.write_bytes(raw.replace(b'encoding:', b'data file: ../secret.raw\nencoding:', 1))
        with pytest.raises(InputError, match='another file'): read_image(path)

def test_not_a_number_is_no_obstacle(tmp_path):
    v = sagittal(); data = v.data.astype(np.float32); data[1,2,3] = np.nan
    write_path = tmp_path/'a.mha'; image = sitk.GetImageFromArray(data); image.SetSpacing((.6,.7,4.4)); sitk.WriteImage(image, str(write_path))
    back = read_image(write_path)
    assert np.isnan(back.data).sum()==1 and np.isfinite(normalise(back.data)).all()
