"""How long a study takes to read: this library and its peers, on the same phantom studies, in one interleaved run.

    python benchmarks/io.py [--studies 4] [--rounds 7]
"""
import argparse,contextlib,os,resource,shutil,statistics,subprocess,tempfile,time,warnings
from pathlib import Path
os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np
import pydicom
import SimpleITK as sitk
from lumbar_nbdev.core import log
from lumbar_nbdev.phantom import phantom_cohort
from lumbar_nbdev.volume import read_dicom,read_study

def series_of(study): return sorted(p for p in study.iterdir() if p.is_dir())
def files_of(series): return sorted(series.iterdir())

def bytes_only(study):
    "Every file read whole and thrown away."
    for s in series_of(study):
        for f in files_of(s): f.read_bytes()

def bytes_kept(study):
    "Every file read whole and kept until the series is complete, as a reader must keep it."
    for s in series_of(study): [f.read_bytes() for f in files_of(s)]

def ours_first(study): return [read_dicom(s) for s in series_of(study)]

def ours_writing(study):
    "The first pass with its cache file written."
    shutil.rmtree(CACHE/'w', ignore_errors=True); read_study(series_of(study), CACHE/'w')

def ours_cached(study): return read_study(series_of(study), CACHE/'r')

def pydicom_loop(study):
    for s in series_of(study):
        slices = [pydicom.dcmread(f) for f in files_of(s)]
        o = np.array(slices[0].ImageOrientationPatient, float); normal = np.cross(o[:3], o[3:])
        np.stack([d.pixel_array for d in sorted(slices, key=lambda d: np.array(d.ImagePositionPatient, float) @ normal)])

def simpleitk(study):
    for s in series_of(study):
        reader = sitk.ImageSeriesReader(); reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(s)))
        sitk.GetArrayViewFromImage(reader.Execute())

def monai(reader):
    from monai.transforms import LoadImage
    load = LoadImage(reader=reader, image_only=True)
    def read(study):
        for s in series_of(study): load(s)
    return read

def dcm2niix(study):
    "Converted to NIfTI in a temporary folder, without compression."
    with tempfile.TemporaryDirectory(dir=CACHE) as out: subprocess.run(['dcm2niix','-z','n','-b','n','-o',out,str(study)], check=True, capture_output=True)

def ways():
    "The rows: name, function, or why it is left out."
    yield 'bytes, thrown away',bytes_only
    yield 'bytes, kept for a series',bytes_kept
    yield 'ours, first pass',ours_first
    yield 'ours, first pass and cache written',ours_writing
    yield 'ours, cached',ours_cached
    yield 'pydicom, a loop over the slices',pydicom_loop
    yield 'SimpleITK, series reader',simpleitk
    for reader,package in (('PydicomReader','monai'), ('ITKReader','itk')):
        try: __import__(package); yield f'MONAI, {reader}',monai(reader)
        except ImportError: yield f'MONAI, {reader}',f'left out: {package} is not installed'
    yield 'dcm2niix',dcm2niix if shutil.which('dcm2niix') else 'left out: dcm2niix is not installed'

def spent():
    "Processor seconds of this process and its children: what other programs do at the same time does not count."
    return sum(r.ru_utime+r.ru_stime for r in map(resource.getrusage, (resource.RUSAGE_SELF,resource.RUSAGE_CHILDREN)))

def forget(studies):
    "Let the system drop the files from its memory, so that they come from the disk again."
    for f in (f for study in studies for s in series_of(study) for f in files_of(s)):
        with open(f, 'rb') as h: os.fsync(h.fileno()); os.posix_fadvise(h.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

def from_disk(rows, studies, rounds):
    "Seconds a study by the clock when every file has to come from the disk."
    taken = {name: [] for name,_ in rows}
    for _ in range(rounds):
        for name,way in rows:
            forget(studies); start = time.perf_counter()
            for study in studies: way(study)
            taken[name].append((time.perf_counter()-start)/len(studies))
    return {name: statistics.median(t) for name,t in taken.items()}

def measured(rows, studies, rounds):
    "Processor seconds a study of each way: the median over rounds, one round of all ways after the other."
    taken = {name: [] for name,_ in rows}
    for _ in range(rounds+1): # the first round only warms up
        for name,way in rows:
            start = spent()
            for study in studies: way(study)
            taken[name].append((spent()-start)/len(studies))
    return {name: statistics.median(t[1:]) for name,t in taken.items()}

def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--studies', type=int, default=4); parser.add_argument('--rounds', type=int, default=7)
    a = parser.parse_args()
    warnings.simplefilter('ignore'); log.setLevel('ERROR')
    studies = sorted((phantom_cohort(a.studies, 42)/'rsna'/'train_images').iterdir())
    size = sum(f.stat().st_size for s in studies for r in series_of(s) for f in files_of(r))/len(studies)/1e6
    files = sum(len(files_of(r)) for s in studies for r in series_of(s))/len(studies)
    rows = list(ways())
    runs = [(n,w) for n,w in rows if callable(w)]
    with open(os.devnull,'w') as quiet, contextlib.redirect_stdout(quiet): t = measured(runs, studies, a.rounds)
    ours,plain = t['ours, first pass'],t['bytes, thrown away']
    print(f"{len(studies)} phantom studies, {files:.0f} files and {size:.1f} MB a study, {os.cpu_count()} CPU cores, one process; processor time, median of {a.rounds} interleaved rounds, files in the system's memory\n")
    print(f"{'':36}{'ms a study':>11}{'MB/s':>9}{'x ours, first':>15}{'x bytes':>9}")
    for name,way in rows: print(f"{name:36}" + (f"{t[name]*1e3:11.1f}{size/t[name]:9.0f}{t[name]/ours:15.2f}{t[name]/plain:9.2f}" if name in t else f"  {way}"))
    if hasattr(os, 'posix_fadvise'):
        cold = from_disk([r for r in runs if r[1] in (bytes_only,ours_first,pydicom_loop)], studies, a.rounds)
        print(f"\nThe same by the clock when the files come from the disk:\n")
        for name in cold: print(f"{name:36}{cold[name]*1e3:11.1f}{size/cold[name]:9.0f}{cold[name]/cold['ours, first pass']:15.2f}{cold[name]/cold['bytes, thrown away']:9.2f}")
    loop = t['pydicom, a loop over the slices']
    aims = [("first pass within 2x of the bytes, files in memory", ours/plain, ours<=2*plain), ("first pass at least 4x faster than the pydicom loop", loop/ours, loop>=4*ours),
            ("cached at least 30x faster than the pydicom loop", loop/t['ours, cached'], loop>=30*t['ours, cached'])]
    if hasattr(os, 'posix_fadvise'): x = cold['ours, first pass']/cold['bytes, thrown away']; aims.insert(1, ("and from the disk", x, x<=2))
    print('\nAims: ' + '; '.join(f"{what}: {x:.1f}x, {'met' if met else 'not met'}" for what,x,met in aims))

if __name__=='__main__':
    with tempfile.TemporaryDirectory() as folder: CACHE = Path(folder); main()
