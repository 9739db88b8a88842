"How the notebooks and the library are written, in figures, beside houses that are admired for it: `python tools/style.py`."
import ast,json,re,sys
from pathlib import Path
from statistics import median,quantiles

ROOT = Path(__file__).resolve().parent.parent
SCREEN = 50 # lines
NOTEBOOKS = { # house: markdown and code cells, of these exported, words per code line, asserts per exported function; counted 2026 by the same rules
    'nbdev': (678,636,266,5.4,.96), 'fastcore': (508,1250,436,2.0,1.72), 'fasthtml': (741,804,252,8.1,.66), 'claudette': (214,353,46,4.2,.09),
    'fastai course': (433,1923,102,.9,.14), 'fastMONAI': (126,353,92,.9,.02), 'timm docs': (565,158,0,27.,None), 'MONAI tutorials': (2297,2136,0,3.3,None)}
LIBRARIES = {'fastai': (1653,4,12,.36), 'fastcore': (730,3,10,.44), 'nbdev': (372,5,17,.57), 'fasthtml': (329,4,12,.50), 'claudette': (77,7,18,.45), 'fastMONAI': (144,9,27,.67), 'nnUNet': (685,13,57,.23), 'pydicom': (631,16,65,.86)} # functions, median and 90th percentile of their lines, share with a docstring
CHECK = re.compile(r'^\s*(?:assert\b|test_\w+\(|with expect_fail|test\()', re.M)

def functions(source):
    "Every function of a module, with the lines its code takes without signature and docstring."
    for f in ast.walk(ast.parse(source)):
        if isinstance(f, ast.FunctionDef|ast.AsyncFunctionDef):
            said = ast.get_docstring(f) is not None
            body = f.body[said:] or f.body
            yield f.name, body[-1].end_lineno-body[0].lineno+1, f.end_lineno-f.lineno+1, said

def lines(text): return [l for l in text.splitlines() if l.strip() and not l.lstrip().startswith('#|')]

def notebook(path):
    "The figures of one notebook."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    prose = [''.join(c['source']) for c in cells if c['cell_type']=='markdown']
    code = [(''.join(c['source']), c['outputs']) for c in cells if c['cell_type']=='code']
    exported = [s for s,_ in code if re.search(r'^#\| *exports?\b', s, re.M)]
    other = [(s,o) for s,o in code if s not in exported]
    words = sum(len(re.findall(r'\w+', re.sub(r'```.*?```|!\[.*?\]\(.*?\)|\]\(.*?\)', ' ', p, flags=re.S))) for p in prose)
    public = sum(len(re.findall(r'^(?:def|class) [a-zA-Z]', s, re.M)) for s in exported)
    return dict(markdown=len(prose), code=len(code), exported=len(exported), lines=median(len(lines(s)) for s,_ in code), exported_lines=median([len(lines(s)) for s in exported] or [0]),
                words=words, code_lines=sum(len(lines(s)) for s,_ in code), asserts=sum(len(CHECK.findall(s)) for s,_ in code), public=public, shown=sum(bool(o) for _,o in other)/max(len(other),1), kilobytes=path.stat().st_size/1000)

def unfinished(path):
    "What a notebook lacks: descriptions of pictures, and in a chapter three exercises at its end with folded solutions."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    text = [''.join(c['source']) for c in cells]
    mute = [c['id'] for c,t in zip(cells,text) if 'fig-alt' not in t and any({'image/png','image/svg+xml'} & {*o.get('data', {})} for o in c.get('outputs', []))]
    chapter = any(t.startswith('#| default_exp') for t in text)
    asked = re.match(r'\*\*Exercises\*\*\s+1\. .+\n2\. .+\n3\. .+\n\s*<details><summary>Solutions</summary>', text[-1])
    return [f'{path.name}: cell {i} has a picture without fig-alt' for i in mute]+[f'{path.name}: no three exercises with folded solutions at its end']*(chapter and not asked)

def row(name, *values): print('| '+' | '.join([name, *('' if v is None else v if isinstance(v, str) else f'{v:.2f}' if isinstance(v, float) else str(v) for v in values)])+' |')

def head(*names): row(*names); print('|---'*len(names)+'|')

def main():
    books = {p.stem: notebook(p) for p in sorted((ROOT/'nbs').glob('*.ipynb'))}
    head('notebook', 'markdown', 'code', 'exported', 'lines a cell', 'exported cell', 'words per code line', 'asserts per exported function', 'cells with output', 'kB')
    for name,b in books.items(): row(name, b['markdown'], b['code'], b['exported'], float(b['lines']), float(b['exported_lines']), b['words']/max(b['code_lines'],1), b['asserts']/b['public'] if b['public'] else None, b['shown'], int(b['kilobytes']))
    total = {k: sum(b[k] for b in books.values()) for k in ('markdown','code','exported','words','code_lines','asserts','public','kilobytes')}
    print(); head('house', 'markdown : code (exported)', 'words per code line', 'asserts per exported function')
    ours = (total['markdown'],total['code'],total['exported'],total['words']/total['code_lines'],total['asserts']/total['public'])
    for name,(m,c,e,w,a) in {'**ours**': ours, **NOTEBOOKS}.items(): row(name, f'{m} : {c} ({e})', w, a)
    found = [(f'{p.stem}.{n}', *f) for p in sorted((ROOT/'lumbar_nbdev').glob('[a-z]*.py')) for n,*f in functions(p.read_text(encoding='utf-8'))]
    size = [f[1] for f in found]
    print(); head('library', 'functions', 'median lines', '90th percentile', 'with docstring')
    for name,f in {'**ours**': (len(found), int(median(size)), int(quantiles(size, n=10)[-1]), sum(f[3] for f in found)/len(found)), **LIBRARIES}.items(): row(name, *f)
    long = [f'{n} ({whole})' for n,_,whole,_ in found if whole>SCREEN]
    print(f"\nAll notebooks: {total['kilobytes']/1000:.1f} MB. Longer than a screen of {SCREEN} lines: {', '.join(long) or 'none'}.")
    lost = [l for p in sorted((ROOT/'nbs').glob('*.ipynb')) for l in unfinished(p)]
    if sys.argv[1:]==['--check'] and (long or lost or total['kilobytes']>15000): sys.exit('\n'.join(['functions longer than a screen, notebooks heavier than 15 MB, or not finished:', *lost]))

if __name__=='__main__': main()
