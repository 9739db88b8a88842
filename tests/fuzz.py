"""Mutated DICOM and MetaImage files against the readers: each is read right, or refused with one sentence.

    python tests/fuzz.py --files 20000 --seed 0 --minutes 30 [--log fuzz.jsonl]

Case number n of a seed is always the same file, so a finding is replayed with `--first n --files 1`. A run that was stopped goes on where its log ends.
"""
import argparse,collections,json,os,re,struct,subprocess,sys,tempfile,time,warnings
from pathlib import Path
import numpy as np
import pydicom
from pydicom.dataset import Dataset,FileDataset,FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian,EnhancedMRImageStorage,ExplicitVRBigEndian,ExplicitVRLittleEndian,ImplicitVRLittleEndian,MRImageStorage,RLELossless
from lumbar_nbdev.core import InputError,log
from lumbar_nbdev.volume import dicom_problem,read_dicom,read_image

SHAPE = (32,24)
ORIENTATION = ['0.0','0.98480775','-0.17364818','0.17364818','-0.17101007','-0.96984631']
GDCM = ('JPEGLosslessProcess14','JPEGLosslessProcess14_1','JPEGLSLossless','JPEG2000Lossless')

# Good files

def pixels(k=0): return (np.add.outer(np.arange(SHAPE[0])*60, np.arange(SHAPE[1])*40)+np.random.default_rng(k).integers(0,300,SHAPE)).astype('<u2')

def classic(syntax=ExplicitVRLittleEndian, **tags):
    "A header and pixels of one MR slice."
    meta = FileMetaDataset(); meta.TransferSyntaxUID,meta.MediaStorageSOPClassUID,meta.MediaStorageSOPInstanceUID = syntax,MRImageStorage,'1.2.3.4.5'
    ds = FileDataset('', {}, file_meta=meta, preamble=b'\0'*128, is_implicit_VR=syntax==ImplicitVRLittleEndian, is_little_endian=syntax!=ExplicitVRBigEndian)
    facts = dict(SOPClassUID=MRImageStorage, SOPInstanceUID='1.2.3.4.5', Modality='MR', SliceThickness='4', SpacingBetweenSlices='4.4', SeriesInstanceUID='1.2.3', InstanceNumber='7', PatientName='Doe^Jane',
        ImagePositionPatient=['-11.3','-40.25','55.75'], ImageOrientationPatient=ORIENTATION, SamplesPerPixel=1, PhotometricInterpretation='MONOCHROME2', Rows=SHAPE[0], Columns=SHAPE[1],
        PixelSpacing=['.7','.6'], BitsAllocated=16, BitsStored=12, HighBit=11, PixelRepresentation=0)
    for k,v in (facts|tags).items(): setattr(ds, k, v)
    data = pixels()
    if syntax==ExplicitVRBigEndian: data = data.astype('>u2')
    ds.PixelData = data.tobytes()
    return ds

def enhanced(frames=4):
    "A multi-frame file, each frame with its own place."
    ds = classic(NumberOfFrames=frames, SOPClassUID=EnhancedMRImageStorage)
    for name in ('ImagePositionPatient','ImageOrientationPatient','PixelSpacing'): delattr(ds, name)
    def group(name, **tags):
        inner = Dataset(); [setattr(inner,k,v) for k,v in tags.items()]
        outer = Dataset(); setattr(outer, name, [inner]); return outer
    shared = group('PixelMeasuresSequence', PixelSpacing=['.7','.6'], SliceThickness='4'); shared.update(group('PlaneOrientationSequence', ImageOrientationPatient=ORIENTATION))
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = [group('PlanePositionSequence', ImagePositionPatient=[f'{-11.3+4.4*k:.4f}','-40.25','55.75']) for k in range(frames)]
    ds.PixelData = b''.join(pixels(k).tobytes() for k in range(frames))
    return ds

def nested(ds):
    "A sequence without a told length, as many scanners write it."
    item = Dataset(); item.ReferencedSOPInstanceUID = '1.2.9'; item.is_undefined_length_sequence_item = True
    ds.ReferencedImageSequence = [item]; ds['ReferencedImageSequence'].is_undefined_length = True
    return ds

def good_files(folder):
    "One good file of each kind; name -> bytes."
    made = dict(plain=classic(), scaled=classic(RescaleSlope='2.5', RescaleIntercept='-10', PhotometricInterpretation='MONOCHROME1'), signed=classic(PixelRepresentation=1), nested=nested(classic()), enhanced=enhanced(),
        implicit=classic(ImplicitVRLittleEndian), big=classic(ExplicitVRBigEndian), deflated=classic(DeflatedExplicitVRLittleEndian), RLELossless=classic())
    made['RLELossless'].compress(RLELossless, generate_instance_uid=False)
    for name,ds in made.items(): ds.save_as(folder/name, enforce_file_format=True)
    for name in GDCM: packed(folder/'plain', folder/name, name)
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}

def packed(plain, out, name):
    "Compress a plain file with GDCM, where that is installed."
    try: import gdcm
    except ImportError: return False
    reader,change,writer = gdcm.ImageReader(),gdcm.ImageChangeTransferSyntax(),gdcm.ImageWriter()
    reader.SetFileName(str(plain)); reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name))); change.SetInput(reader.GetImage())
    if not change.Change(): return False
    writer.SetFile(reader.GetFile()); writer.SetImage(change.GetOutput()); writer.SetFileName(str(out))
    return writer.Write()

META = dict(ObjectType='Image', NDims='3', BinaryData='True', BinaryDataByteOrderMSB='False', CompressedData='False', TransformMatrix='0 1 0 0 0 -1 -1 0 0', Offset='10.5 -40 55', CenterOfRotation='0 0 0',
    AnatomicalOrientation='RAI', ElementSpacing='0.7 0.6 4.4', DimSize='10 8 6', ElementType='MET_SHORT', ElementDataFile='LOCAL')

def meta_image(header, data): return '\n'.join(f'{k} = {v}' for k,v in header.items()).encode()+b'\n'+data

# Mutations

NASTY = [b'', b' ', b'0', b'-1', b'nan', b'inf', b'-inf', b'1e999', b'1e30', b'-0', b'9999999999999999999', b'1\\2', b'1\\2\\3', b'0\\0\\0', b'1\\0\\0\\0\\1\\0', b'0\\0\\0\\0\\0\\0', b'nan\\1\\1', b'1\\nan', b'0\\1', b'-1\\-1',
    b'1,5\\2,5', b'abc', b'\xff\xff', b'\0\0', b'\0\x01', b'\x01\0', b'\xff\x7f', b'0\\1\\0\\0\\0\\-1', b'1_0\\2', b'0x10', b'1.2.840.10008.1.2', b'1.2.840.10008.1.2.4.90', b'MONOCHROME1', b'RGB', b'PALETTE COLOR', b'-5\\1e308\\2', b'5\\6\\7', b'2\\2']
LONG = b'OB OD OF OL OV OW SQ SV UC UN UR UT UV'.split()

def elements(raw):
    "Where the top-level elements of an explicit little-endian file begin and end, the last one to the file's end."
    found,at = [],132
    while at+8<=len(raw):
        tag,kind,length = struct.unpack_from('<I2sH', raw, at); size = 12 if kind in LONG else 8
        if kind in LONG: length, = struct.unpack_from('<I', raw, at+8)
        end = len(raw) if tag==0x00107fe0 else at+size+length
        if length==0xffffffff and tag!=0x00107fe0: end = raw.index(b'\xfe\xff\xdd\xe0\0\0\0\0', at)+8
        found.append((at, size, end)); at = end
    return found

def mutated_elements(raw, rng):
    "Elements lost, doubled, swapped, or given another value, length or type."
    parts = [(raw[a:a+n], raw[a+n:b]) for a,n,b in elements(raw)]
    for _ in range(rng.choice([1,1,1,2,3])):
        i,j = rng.integers(0, len(parts), 2); head,value = parts[i]; kind = rng.integers(6)
        if kind==0: del parts[i]
        elif kind==1: parts.insert(j, parts[i])
        elif kind==2: parts[i],parts[j] = parts[j],parts[i]
        elif kind==3 and len(head)==8:
            value = NASTY[rng.integers(len(NASTY))]; value += b' '*(len(value)%2)
            parts[i] = head[:6]+struct.pack('<H', len(value)), value
        elif kind==4: parts[i] = head[:4]+[b'DS',b'US',b'UN',b'OB',b'SQ',b'zz',b'\0\0',b'FD',b'IS'][rng.integers(9)]+head[6:], value
        elif kind==5: parts[i] = head[:6]+struct.pack('<H', [0,1,2,65535,len(value)+1,len(value)+2,max(len(value)-2,0)][rng.integers(7)]&0xffff)+head[8:], value
        if len(parts)<2: break
    return raw[:132]+b''.join(h+v for h,v in parts)

def mutated_bytes(raw, rng):
    "Bits flipped, bytes set, parts cut, lost, doubled."
    raw = bytearray(raw); front = len(raw) if rng.random()<.4 else min(len(raw), 900)
    for _ in range(rng.choice([1,1,1,2,4])):
        kind,at,n = rng.choice([0,0,1,1,2,3,4,5]),int(rng.integers(front)),int(rng.integers(1,40))
        if at>=len(raw): continue
        if kind==0: raw[at] ^= 1<<rng.integers(8)
        elif kind==1: raw[at] = rng.integers(256)
        elif kind==2: raw[at:at+4] = struct.pack('<I', [0,1,0xffffffff,0x7fffffff,0xfffffffe][rng.integers(5)])
        elif kind==3: del raw[at:at+n]
        elif kind==4: raw[at:at] = raw[at:at+n]
        else: del raw[int(rng.integers(len(raw))):]
        if len(raw)<2: break
        front = min(front, len(raw))
    return bytes(raw)

WORDS = ['', '0', '-1', '3 3', 'nan nan nan', 'inf 1 1', '1e400 1 1', '-0.7 0.6 4.4', '0 0 0', '99999 99999 99999', '2147483647 2147483647 2147483647', '10 8', '10 8 6 2', '10 8 -6', '0 8 6', '5 8 12', '1 0 0 0 1 0 0 0 1', '1 0 0 0 1 0 0 0 0',
    '1 1 1 1 1 1 1 1 1', 'nan 0 0 0 1 0 0 0 1', 'True', 'False', 'MET_UCHAR', 'MET_DOUBLE', 'MET_USHORT', 'MET_NONE', 'MET_SHORT_ARRAY', 'LOCAL', 'LIST', '../secret.raw', '/etc/passwd', 'voxels%02d.raw 1 6 1', 'voxels.raw', 'a.mha', '../up/../secret.raw', 'link.raw', '4', '2', '1', 'x'*300]
KEYS = [*META, 'ElementSize', 'Position', 'Origin', 'Rotation', 'Orientation', 'HeaderSize', 'ElementNumberOfChannels', 'CompressedDataSize', 'ElementByteOrderMSB', 'Comment', 'ObjectSubType', 'Modality', 'SequenceID']

def mutated_meta(rng, data):
    "A MetaImage file with its header's entries lost, doubled, moved, changed; its data packed or not, cut or not."
    import zlib
    h = dict(META)
    if rng.random()<.3: data = zlib.compress(data); h |= dict(CompressedData='True'); h = {**{k:v for k,v in h.items() if k!='ElementDataFile'}, 'CompressedDataSize':str(len(data)), 'ElementDataFile':'LOCAL'}
    if rng.random()<.15: h['ElementDataFile'] = 'voxels.raw'
    lines = list(h.items())
    for _ in range(rng.choice([1,1,1,2,3])):
        i,j = rng.integers(0, len(lines), 2); kind = rng.integers(6)
        if kind==0: del lines[i]
        elif kind==1: lines.insert(j, lines[i])
        elif kind==2: lines[i],lines[j] = lines[j],lines[i]
        elif kind in (3,4): lines[i] = lines[i][0], WORDS[rng.integers(len(WORDS))]
        else: lines.insert(j, (KEYS[rng.integers(len(KEYS))], WORDS[rng.integers(len(WORDS))]))
        if len(lines)<2: break
    raw = '\n'.join(f'{k} = {v}' for k,v in lines).encode()+b'\n'+data
    if rng.random()<.3: raw = mutated_bytes(raw, rng)
    return raw[:rng.integers(len(raw))] if rng.random()<.1 else raw

# What must hold

def wrong_dicom(path, volumes):
    "How the volumes of a file differ from what pydicom finds in it, or ''."
    pydicom.config.convert_wrong_length_to_UN = True # a broken length of the file's own header says nothing about the picture
    try: ds = pydicom.dcmread(path); ds.file_meta.get('FileMetaInformationGroupLength')
    finally: pydicom.config.convert_wrong_length_to_UN = False
    frames = int(ds.get('NumberOfFrames') or len(ds.get('PerFrameFunctionalGroupsSequence') or [0]))
    def find(i, group, name):
        for holder in (ds.get('PerFrameFunctionalGroupsSequence'), ds.get('SharedFunctionalGroupsSequence')):
            part = holder[min(i, len(holder)-1)].get(group) if holder else None
            if part and part[0].get(name) is not None: return np.array(part[0].get(name), float)
        return np.array(ds.get(name), float)
    seen = 0
    for v in volumes:
        for k,n in enumerate(v.meta['instances']):
            if n<0: continue
            i = n-1 if frames>1 else 0; seen += 1
            o = find(i,'PlaneOrientationSequence','ImageOrientationPatient'); s = find(i,'PixelMeasuresSequence','PixelSpacing'); p = find(i,'PlanePositionSequence','ImagePositionPatient')
            if np.abs(v.to_world([k,0,0])-p).max()>.26*v.spacing[0]+1e-3: return f'position of frame {i}: {v.to_world([k,0,0])}, pydicom has {p}'
            if np.abs(np.r_[v.affine[:3,2]/v.spacing[2], v.affine[:3,1]/v.spacing[1]]-o/np.repeat([np.linalg.norm(o[:3]),np.linalg.norm(o[3:])],3)).max()>.003: return 'orientation'
            if np.abs(v.spacing[1:]-s).max()>1e-6*max(s): return 'spacing'
            if v.shape[1:]!=(ds.Rows,ds.Columns): return 'matrix'
    if frames==1 and ds.file_meta.TransferSyntaxUID in (ExplicitVRLittleEndian,ImplicitVRLittleEndian,ExplicitVRBigEndian):
        for name,usual in (('SamplesPerPixel',1),('PhotometricInterpretation','MONOCHROME2'),('BitsStored',ds.BitsAllocated),('PixelRepresentation',0)):
            if ds.get(name) in (None,''): setattr(ds, name, usual)
        want = ds.pixel_array.astype(float)
        if ds.get('PhotometricInterpretation')=='MONOCHROME1': want = (-1 if ds.PixelRepresentation else 2**ds.BitsStored-1)-want
        slope,cut = (ds.get(f'Rescale{n}') for n in ('Slope','Intercept'))
        want = want*float(1 if slope is None else slope)+float(0 if cut is None else cut)
        if not np.allclose(volumes[0].data[0], want, rtol=1e-5, atol=abs(want).max()*1e-6): return 'values'
    return '' if seen else 'no slice is in any volume'

def wrong_meta(raw, v, data, secret):
    "How a volume differs from its MetaImage header, read independently, or ''."
    if secret in v.data.tobytes(): return 'voxels of a file outside the folder'
    h = {}
    for line in raw.split(b'\n'):
        k,_,value = line.decode('latin1').partition('='); h.setdefault(k.strip(), value.strip())
        if k.strip()=='ElementDataFile': break
    one = lambda *names: next((h[n] for n in names if n in h), None)
    size,spacing,origin = ([float(x) for x in one(*n).split()] for n in (('DimSize',),('ElementSpacing',),('Offset','Position','Origin')))
    turn = np.array([float(x) for x in one('TransformMatrix','Rotation','Orientation').split()]).reshape(3,3)
    if sorted(v.shape)!=sorted(map(int,size)): return 'size'
    ends = np.array([[i,j,k] for i in (0,size[0]-1) for j in (0,size[1]-1) for k in (0,size[2]-1)])
    places = ends*spacing @ turn + origin
    ours = v.to_world(np.indices((2,2,2)).reshape(3,-1).T*(np.array(v.shape)-1))
    apart = np.linalg.norm(places[:,None]-ours[None], axis=-1).min(1).max()
    return f'a corner is {apart:.3f} mm off' if apart>.01*max(spacing)*max(size) else ''

# Running

class Fuzzer:
    "Cases by number: the file, what the readers make of it, and whether that is right."
    def __init__(self, folder, seed=0):
        self.seed,self.folder = seed,Path(folder)
        (self.folder/'good').mkdir(); (self.folder/'in').mkdir()
        self.good = good_files(self.folder/'good'); self.names = sorted(self.good)
        self.data = np.arange(-240,240, dtype='<i2').tobytes()
        (self.folder/'secret.raw').write_bytes(b'TOP SECRET! '*200); (self.folder/'in'/'voxels.raw').write_bytes(self.data); (self.folder/'in'/'link.raw').symlink_to('../secret.raw')
        for name in self.names:
            (self.folder/'in'/'case.dcm').write_bytes(self.good[name]); volumes = read_dicom(self.folder/'in'/'case.dcm')
            assert wrong_dicom(self.folder/'in'/'case.dcm', volumes)=='', name
        (self.folder/'in'/'case.mha').write_bytes(meta_image(META, self.data))
        assert wrong_meta(meta_image(META, self.data), read_image(self.folder/'in'/'case.mha'), self.data, b'TOP SECRET')==''

    def file(self, n):
        "The kind and the bytes of case number n."
        rng = np.random.default_rng([self.seed, n])
        if rng.random()<.3: return 'mha',mutated_meta(rng, self.data)
        name = self.names[rng.integers(len(self.names))] if rng.random()<.6 else ('plain','scaled','signed','nested','enhanced')[rng.integers(5)]
        by_elements = name not in ('implicit','big','deflated') and rng.random()<.5
        return name,(mutated_elements if by_elements else mutated_bytes)(self.good[name], rng)

    def case(self, n):
        "What became of case number n: its kind and 'read', 'refused', or what is wrong."
        name,raw = self.file(n)
        path = self.folder/'in'/('case.mha' if name=='mha' else 'case.dcm'); path.write_bytes(raw)
        try:
            if name=='mha': return name, wrong_meta(raw, read_image(path), self.data, b'TOP SECRET') or 'read'
            dicom_problem(path)
            volumes = read_dicom(path)
        except InputError as e: return name, 'refused' if '\n' not in str(e) and 'Doe' not in str(e) else f'a bad sentence: {e}'
        except Exception as e: return name, f'raised {type(e).__name__}: {e}'
        try: return name, wrong_dicom(path, volumes) or 'read'
        except Exception as e: # pydicom minds something that does not matter here: then nothing may have changed
            path.write_bytes(self.good[name]); same = read_dicom(path)
            return name, 'read' if [v.affine.tolist() for v in same]==[v.affine.tolist() for v in volumes] else f'read, but pydicom says {type(e).__name__}: {e}'

def work(a):
    "One process: cases one after the other, a line for each."
    warnings.simplefilter('ignore'); log.setLevel('CRITICAL'); pydicom.config.logger.setLevel('CRITICAL')
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(folder, a.seed)
        for n in range(a.first, a.first+a.files): print(json.dumps([n, *fuzzer.case(n)]), flush=True)

def run(a):
    "Worker processes until all cases are done or time is up; a dead or silent one is a finding, and the next begins after it."
    done = [json.loads(l) for l in Path(a.log).read_text().splitlines()] if Path(a.log).exists() else []
    first,last,until,start = (done[-1][0]+1 if done else a.first),a.first+a.files,time.time()+a.minutes*60,time.time()
    with open(a.log,'a') as kept:
        while first<last and time.time()<until and [w for *_,w in done[-3:]]!=['crash']*3:
            child = subprocess.Popen([sys.executable,__file__,'--worker','--seed',str(a.seed),'--first',str(first),'--files',str(last-first)], stdout=subprocess.PIPE, text=True)
            import select
            while time.time()<until:
                if not select.select([child.stdout], [], [], 120)[0]: what = 'hang'; break
                line = child.stdout.readline()
                if not line: what = 'crash'; break
                kept.write(line); kept.flush(); done.append(json.loads(line)); first = done[-1][0]+1
                if first==last: break
            else: child.kill(); child.wait(); break
            child.kill(); child.wait()
            if first<last: done.append([first,'?',what]); kept.write(json.dumps(done[-1])+'\n'); kept.flush(); first += 1
    tally = collections.Counter(what if what in ('read','refused','crash','hang') else 'WRONG' for _,_,what in done)
    print(f"{len(done)} files, seed {a.seed}, {time.time()-start:.0f} s: " + ', '.join(f'{k} {tally[k]}' for k in ('read','refused','crash','hang','WRONG')))
    for kind in sorted({k for _,k,_ in done}): print(f"  {kind:24}" + ', '.join(f'{w} {c}' for w,c in sorted(collections.Counter(w if w in ('read','refused','crash','hang') else 'WRONG' for _,k,w in done if k==kind).items())))
    for n,kind,what in done:
        if what not in ('read','refused'): print(f"  case {n} ({kind}): {what}")
    return any(w not in ('read','refused') for _,_,w in done)

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--files', type=int, default=20000); p.add_argument('--seed', type=int, default=0); p.add_argument('--first', type=int, default=0)
    p.add_argument('--minutes', type=float, default=30); p.add_argument('--log', default='fuzz.jsonl'); p.add_argument('--worker', action='store_true')
    a = p.parse_args()
    sys.exit(work(a) if a.worker else run(a))
