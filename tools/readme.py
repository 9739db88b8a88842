"Write README.md from nbs/index.ipynb: `python tools/readme.py`; with `--check`, only say whether it is current."
import re,sys
from pathlib import Path
from fastcore.nbio import read_nb

ROOT = Path(__file__).resolve().parent.parent
HIDDEN = {'hide','export','exports','exporti','exportd','default_exp'}

def local_links(text):
    "Links to files beside the notebook, as seen from the project's top."
    return re.sub(r'\]\((?!https?:|#|mailto:)([^)#\s]+)', lambda m: f'](nbs/{m[1]}' if (ROOT/'nbs'/m[1]).exists() else m[0], text)

def fenced(text, language=''):
    "A fenced block whose fence is longer than any inside."
    fence = '`'*max([3, *(len(o)+1 for o in re.findall('`+', text))])
    return f'{fence}{language}\n{text.strip(chr(10))}\n{fence}'

def output_blocks(cell):
    "The text outputs of a cell: streams and plain text fenced, markdown as it is; pictures are left out."
    for out in cell.get('outputs', []):
        data = out.get('data', {})
        if 'text' in out: yield fenced(''.join(out['text']))
        elif 'text/markdown' in data: yield ''.join(data['text/markdown']).strip()
        elif 'text/plain' in data and not any(k.startswith('image/') for k in data): yield fenced(''.join(data['text/plain']))

def blocks(cell):
    "What a reader of the README sees of one cell."
    if cell.cell_type=='markdown': yield local_links(cell.source.strip()); return
    if cell.cell_type!='code' or HIDDEN & cell.directives.keys() or cell.directives.get('include')=='false': return
    code = '\n'.join(l for l in cell.source.splitlines() if not l.startswith('#|')).strip('\n')
    if code and cell.directives.get('echo')!='false': yield fenced(code, 'python')
    if cell.directives.get('output')!='false': yield from output_blocks(cell)

def readme():
    "The whole README as text."
    cells = read_nb(ROOT/'nbs'/'index.ipynb').cells
    warning = '<!-- Written by tools/readme.py from nbs/index.ipynb. Edit the notebook. -->'
    return '\n\n'.join([warning, *(b for c in cells for b in blocks(c) if b)]) + '\n'

if __name__=='__main__':
    path,text = ROOT/'README.md', readme()
    if '--check' not in sys.argv: path.write_text(text, encoding='utf-8')
    elif not path.exists() or path.read_text(encoding='utf-8')!=text: sys.exit('README.md differs from nbs/index.ipynb; run `python tools/readme.py` and commit it')
