"Downloads from a local server that truncates, stalls, refuses and lies, archives that are not safe, and kills at random moments."
import base64,hashlib,io,os,random,shutil,stat,threading,time,zipfile
from http.server import BaseHTTPRequestHandler,ThreadingHTTPServer
import numpy as np
import pytest
from helpers import *
from lumbar_nbdev import cohort as cohort_module,spider as spider_module
from lumbar_nbdev.cohort import *
from lumbar_nbdev.core import *
from lumbar_nbdev.spider import *

class Handler(BaseHTTPRequestHandler):
    "Sends files, with or without ranges; the server's plan says what goes wrong with the next requests."
    protocol_version = 'HTTP/1.1'
    def log_message(self, *_): pass
    def answer(self, status, headers, body=b''):
        self.send_response(status)
        for k,v in headers.items(): self.send_header(k, v)
        self.end_headers(); self.wfile.write(body)
    def do_POST(self):
        s = self.server; self.rfile.read(int(self.headers.get('Content-Length') or 0)); s.asked.append(('POST', self.path, ''))
        if s.refuse: self.answer(s.refuse, {'Content-Type':'application/json','Content-Length':'2'}, b'{}')
        else: self.answer(302, {'Location':f'{s.address}/competition.zip','Content-Length':'0'})
    def do_GET(self):
        s,name = self.server,self.path.split('?')[0].strip('/')
        s.asked.append(('GET', name, self.headers.get('Range','')))
        plan = s.plan.pop(0) if s.plan and name in s.files and name.endswith(s.victim) else 'fine'
        body,start = s.files.get(name),0
        if body is None: plan = 404
        if plan=='silent': time.sleep(s.stall); self.close_connection = True; return
        if isinstance(plan, int): return self.answer(plan, {'Content-Length':'0', **({'Retry-After':'0'} if plan==429 else {})})
        if plan=='lie': body = bytes(b^255 for b in body)
        headers = {'Content-Length':str(len(body)), 'x-goog-hash':'md5='+base64.b64encode(hashlib.md5(s.files[name]).digest()).decode()}
        if s.ranges:
            headers['Accept-Ranges'] = 'bytes'
            if r:=self.headers.get('Range'):
                start = int(r[6:-1])
                if start>=len(body): return self.answer(416, {'Content-Range':f'bytes */{len(body)}','Content-Length':'0'})
                headers |= {'Content-Range':f'bytes {start}-{len(body)-1}/{len(body)}','Content-Length':str(len(body)-start)}
        self.send_response(206 if start else 200)
        for k,v in headers.items(): self.send_header(k, v)
        self.end_headers(); end = len(body) if plan in ('fine','lie') else start+max((len(body)-start)//3, 1)
        try:
            for i in range(start, end, 1<<15): self.wfile.write(body[i:min(i+(1<<15),end)]); self.wfile.flush(); time.sleep(s.slow)
            if plan=='stall': time.sleep(s.stall)
            if plan in ('cut','stall'): self.close_connection = True; self.connection.close()
        except OSError: pass

@pytest.fixture
def server(monkeypatch, tmp_path):
    s = ThreadingHTTPServer(('127.0.0.1',0), Handler); s.daemon_threads = True; s.handle_error = lambda *_: None
    s.address = f'http://127.0.0.1:{s.server_address[1]}'; s.files,s.plan,s.asked,s.victim,s.ranges,s.slow,s.stall,s.refuse = {},[],[],'',True,0,3,0
    threading.Thread(target=s.serve_forever, daemon=True).start()
    monkeypatch.setenv('NO_PROXY','127.0.0.1'); monkeypatch.setenv('no_proxy','127.0.0.1')
    monkeypatch.setattr(cohort_module,'PAUSE',.01); monkeypatch.setattr(cohort_module,'SILENCE',.5)
    yield s
    s.shutdown(); s.server_close()

def zipped(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as z:
        for name,data in files.items(): z.writestr(name, data)
    return out.getvalue()

def packed(root): return zipped({str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob('*')) if p.is_file()})
def tree(root): return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(Path(root).rglob('*')) if p.is_file()}

# SPIDER

@pytest.fixture
def zenodo(server, monkeypatch):
    "SPIDER's four files in small, with their checksums."
    rng = np.random.default_rng(0); names = [f'{n}_{k}.mha' for n in range(1,41) for k in ('t1','t2')]
    for part,size in (('images',20000),('masks',2000)): server.files[f'{part}.zip'] = zipped({f'{part}/{n}': rng.bytes(size) for n in names})
    server.files['overview.csv'] = ('new_file_name,subset\n'+''.join(f'{n[:-4]},training\n' for n in names)).encode()
    server.files['radiological_gradings.csv'] = (','.join(GRADINGS)+'\n1,1,0,0,0,0,0,0,0,3\n').encode()
    monkeypatch.setattr(spider_module, 'ZENODO', server.address+'/{}?download=1')
    monkeypatch.setattr(spider_module, 'ARCHIVES', {n: hashlib.sha256(server.files[n]).hexdigest() for n in ('masks.zip','images.zip')})
    return server

@pytest.fixture
def whole(zenodo, tmp_path):
    "What an undisturbed download leaves."
    found = tree(fetch_spider(tmp_path/'whole')); zenodo.asked.clear()
    assert len(found)==160+2+2 and not (tmp_path/'whole/.download').exists()
    return found

def test_spider_comes_whole_and_is_recognised(zenodo, whole, tmp_path):
    assert tree(fetch_spider(tmp_path/'whole'))==whole and zenodo.asked==[]

@pytest.mark.parametrize('ranges', [True,False], ids=['ranges','no ranges'])
@pytest.mark.parametrize('plan', [['cut','cut','cut'], ['stall'], [503,429,500], ['cut',503,'stall']], ids=str)
def test_a_disturbed_download_ends_the_same(zenodo, whole, tmp_path, plan, ranges):
    zenodo.plan,zenodo.victim,zenodo.ranges = list(plan),'images.zip',ranges
    assert tree(fetch_spider(tmp_path/'out'))==whole and not zenodo.plan
    asked = [r for _,name,r in zenodo.asked if name=='images.zip']
    assert len(asked)==len(plan)+1 and (asked[-1]!='')==('cut' in plan or 'stall' in plan)

@pytest.mark.parametrize('plan,words', [([404],'the server answers 404 Not Found'), ([403],'the server answers 403 Forbidden'), ([503]*9,'the server answers 503'), (['silent']*9,'the server was silent for 0.5 s')], ids=str)
def test_a_download_that_cannot_go_on_says_why(zenodo, tmp_path, plan, words):
    zenodo.plan,zenodo.victim,zenodo.stall = list(plan),'images.zip',1
    with pytest.raises(InputError, match=f"the download broke off, {words}.*; .*run again") as e: fetch_spider(tmp_path/'out')
    assert '\n' not in str(e.value) and not (tmp_path/'out/overview.csv').exists()

def test_no_server_at_all(zenodo, tmp_path):
    zenodo.shutdown(); zenodo.server_close()
    with pytest.raises(InputError, match='broke off, no connection to the server'): fetch_spider(tmp_path/'out')

def test_wrong_bytes_are_never_unpacked(zenodo, whole, tmp_path):
    zenodo.plan,zenodo.victim = ['lie','lie'],'images.zip'
    with pytest.raises(InputError, match='does not have the published checksum'): fetch_spider(tmp_path/'out')
    assert not (tmp_path/'out/images').exists() and not list((tmp_path/'out').rglob('images.zip*'))
    zenodo.plan = []
    assert tree(fetch_spider(tmp_path/'out'))==whole

def test_a_part_of_another_file_is_thrown_away(zenodo, whole, tmp_path):
    for old in (b'x'*1000, b'x'*10**7, zenodo.files['images.zip']):
        (tmp_path/'out/.download').mkdir(parents=True); (tmp_path/'out/.download/images.zip.part').write_bytes(old)
        assert tree(fetch_spider(tmp_path/'out'))==whole
        shutil.rmtree(tmp_path/'out')

def test_a_damaged_table_does_not_get_its_name(zenodo, whole, tmp_path):
    good = zenodo.files['radiological_gradings.csv']; zenodo.files['radiological_gradings.csv'] = good[:-9]
    with pytest.raises(InputError, match='row 2 has .* cells'): fetch_spider(tmp_path/'out')
    assert not (tmp_path/'out/radiological_gradings.csv').exists()
    zenodo.files['radiological_gradings.csv'] = good
    assert tree(fetch_spider(tmp_path/'out'))==whole

def test_no_room_is_said_before_anything_is_written(zenodo, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda p: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(InputError, match='not enough room'): fetch_spider(tmp_path/'out')
    assert not list(tmp_path.rglob('*.mha'))
    with pytest.raises(InputError, match='not enough room, 70 GB are needed'): fetch_rsna(tmp_path/'rsna')

def test_a_full_disk_is_said(zenodo, tmp_path, monkeypatch):
    def full(*_): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(shutil, 'copyfileobj', full)
    with pytest.raises(InputError, match='the disk is full'): fetch_spider(tmp_path/'out')

# Archives

def test_an_interrupted_unpacking_goes_on(tmp_path):
    (tmp_path/'a.zip').write_bytes(zipped({'images/1_t1.mha':'one','images/2_t1.mha':'two'}))
    assert unpack(tmp_path/'a.zip', tmp_path/'out')==2
    before = (tmp_path/'out/images/1_t1.mha').stat().st_mtime_ns
    for left in ('t','tow'): # Cut off, and of the right size with other bytes
        (tmp_path/'out/images/2_t1.mha').write_text(left); unpack(tmp_path/'a.zip', tmp_path/'out')
        assert (tmp_path/'out/images/2_t1.mha').read_text()=='two' and (tmp_path/'out/images/1_t1.mha').stat().st_mtime_ns==before

def entry(name, mode=0, flags=0):
    z = zipfile.ZipInfo(name); z.external_attr = mode<<16; z.flag_bits |= flags
    return z

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('entries,words', [([entry('../a')],'a path leaves its folder'), ([entry('/etc/lumbar')],'a path leaves its folder'), ([entry('images/../../a')],'a path leaves its folder'), ([entry('..\\a')],'a backslash'),
    ([entry('l', stat.S_IFLNK|0o777)],'a link'), ([entry('a'),entry('a')],'there twice'), ([entry('a'),entry('./a')],'there twice'), ([entry('a'),entry('a/b')],'a folder too'), ([entry('.')],'a folder too')], ids=str)
def test_unsafe_names_are_refused_before_anything_is_written(tmp_path, entries, words):
    with zipfile.ZipFile(tmp_path/'a.zip','w') as z:
        z.writestr('good', 'good')
        for e in entries: z.writestr(e, 'evil')
    with pytest.raises(InputError, match=words) as e: unpack(tmp_path/'a.zip', tmp_path/'out/deep')
    assert not (tmp_path/'out').exists() and '\n' not in str(e.value) and not Path('/etc/lumbar').exists()

def test_a_bomb_does_not_fit_and_a_liar_is_stopped(tmp_path, monkeypatch):
    raw = zipped({'big': bytes(10**6)}); (tmp_path/'a.zip').write_bytes(raw)
    monkeypatch.setattr(shutil, 'disk_usage', lambda p: shutil._ntuple_diskusage(10**9, 10**9, 10**5))
    with pytest.raises(InputError, match='not enough room'): unpack(tmp_path/'a.zip', tmp_path/'out')
    monkeypatch.undo()
    lying = raw.replace((10**6).to_bytes(4,'little'), (1000).to_bytes(4,'little')); assert lying!=raw
    (tmp_path/'a.zip').write_bytes(lying)
    with pytest.raises(InputError, match='a damaged archive'): unpack(tmp_path/'a.zip', tmp_path/'out')
    assert tree(tmp_path/'out')=={}

def test_damaged_archives_are_refused(tmp_path):
    good = zipped({f'images/{i}': os.urandom(300) for i in range(9)}); rng = random.Random(1)
    for i in range(150):
        raw = bytearray(good)
        for _ in range(rng.randint(1,4)): raw[rng.randrange(len(raw))] = rng.randrange(256)
        (tmp_path/'a.zip').write_bytes(raw[:rng.randrange(len(raw))] if i%3==0 else raw); out = tmp_path/f'out{i}'
        try: unpack(tmp_path/'a.zip', out)
        except InputError as e: assert '\n' not in str(e)
        assert all(not p.name.startswith('.') for p in out.rglob('*'))

# The competition

@pytest.fixture
def kaggle(server, monkeypatch, tmp_path):
    "A small competition behind kagglehub's own client."
    from kagglesdk.kaggle_env import KaggleEnv,_env_to_endpoint
    monkeypatch.setitem(_env_to_endpoint, KaggleEnv.PROD, server.address)
    for k,v in dict(KAGGLE_USERNAME='someone', KAGGLE_KEY='secret', KAGGLE_CONFIG_DIR=str(tmp_path/'none')).items(): monkeypatch.setenv(k, v)
    for k in ('KAGGLE_API_TOKEN','KAGGLE_KERNEL_RUN_TYPE','KAGGLE_API_V1_TOKEN'): monkeypatch.delenv(k, raising=False)
    monkeypatch.setattr(cohort_module, 'RSNA_BYTES', 10**6)
    server.root = write_rsna(tmp_path/'there', (11,)); server.files['competition.zip'] = packed(server.root)
    return server

@pytest.mark.parametrize('ranges', [True,False], ids=['ranges','no ranges'])
@pytest.mark.parametrize('plan', [[], ['cut','cut'], ['stall'], ['silent'], [503,429]], ids=str)
def test_the_competition_comes_whole(kaggle, tmp_path, plan, ranges):
    kaggle.plan,kaggle.victim,kaggle.ranges = list(plan),'competition.zip',ranges
    assert tree(fetch_rsna(tmp_path/'rsna'))==tree(kaggle.root) and not kaggle.plan
    assert sorted(p.name for p in tmp_path.iterdir() if 'rsna' in p.name)==['rsna'] and len(Cohort(tmp_path/'rsna').studies)==1
    if 'cut' in plan and ranges: assert any(r for _,_,r in kaggle.asked), "a broken download is resumed"
    kaggle.asked.clear(); fetch_rsna(tmp_path/'rsna')
    assert kaggle.asked==[], "a finished download is recognised"

@pytest.mark.parametrize('status,words', [(401,r'Kaggle refuses the download \(401\).*accept the competition.s rules'), (403,r'Kaggle refuses the download \(403\)'), (404,'the server answers 404'), (500,'the server answers 500')])
def test_kaggle_refuses(kaggle, tmp_path, status, words):
    kaggle.refuse = status
    with pytest.raises(InputError, match=words) as e: fetch_rsna(tmp_path/'rsna')
    assert '\n' not in str(e.value) and not (tmp_path/'rsna').exists() and 'secret' not in str(e.value)

def test_kaggle_without_a_key_and_with_wrong_bytes(kaggle, tmp_path, monkeypatch):
    kaggle.plan,kaggle.victim = ['lie'],'competition.zip'
    with pytest.raises(InputError, match='checksum that Kaggle gives'): fetch_rsna(tmp_path/'rsna')
    assert tree(fetch_rsna(tmp_path/'rsna'))==tree(kaggle.root)
    monkeypatch.delenv('KAGGLE_KEY')
    with pytest.raises(InputError, match='no Kaggle credentials'): fetch_rsna(tmp_path/'other')
    (tmp_path/'full').mkdir(); (tmp_path/'full/a').write_text('')
    with pytest.raises(InputError, match='not empty and holds no train.csv'): fetch_rsna(tmp_path/'full')

def test_on_kaggle_the_mounted_folder_is_used(tmp_path, monkeypatch):
    import kagglehub
    monkeypatch.setenv('KAGGLE_KERNEL_RUN_TYPE','Interactive'); monkeypatch.setattr(shutil, 'disk_usage', lambda p: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    monkeypatch.setattr(kagglehub, 'competition_download', lambda name: str(tmp_path/'input'/name))
    assert fetch_rsna(tmp_path/'rsna')==tmp_path/'input'/COMPETITION and not (tmp_path/'rsna').exists()

# Kills at random moments

def killed(fetch, to, kills, longest):
    "Kill a download -9 `kills` times at random moments; how many were still running."
    rng,running = random.Random(42),0
    for _ in range(kills):
        p = forked(fetch, to); time.sleep(rng.uniform(0, longest)); p.kill(); p.join(); running += p.exitcode!=0
        if p.exitcode==0: shutil.rmtree(to)
    print(f'{running} of {kills} were killed while running')
    return running

def test_a_killed_spider_download_ends_like_an_undisturbed_one(zenodo, whole, tmp_path):
    "LUMBAR_KILLS=50 is the long run."
    zenodo.slow = .01; kills = int(os.environ.get('LUMBAR_KILLS', 4))
    assert killed(fetch_spider, tmp_path/'out', kills, .9)>0
    assert tree(fetch_spider(tmp_path/'out'))==whole

def test_a_killed_competition_download_ends_like_an_undisturbed_one(kaggle, tmp_path):
    (kaggle.root/'more.bin').write_bytes(os.urandom(5<<20)) # kagglehub writes by the MiB
    kaggle.files['competition.zip'] = packed(kaggle.root); kaggle.slow = .004; kills = int(os.environ.get('LUMBAR_KILLS', 4))
    assert killed(fetch_rsna, tmp_path/'rsna', kills, 1)>0
    kaggle.slow = 0; print('resumed:', sum(bool(r) for _,_,r in kaggle.asked))
    assert tree(fetch_rsna(tmp_path/'rsna'))==tree(kaggle.root) and sorted(p.name for p in tmp_path.iterdir() if 'rsna' in p.name)==['rsna']
