"Build the docs site in _docs/ without a network: nbdev processes the notebooks, then Quarto renders them where it is installed, else smalldocs, and formulas become MathML."
import html,os,re,shutil,subprocess,sys
from pathlib import Path
import traitlets.traitlets,typing_extensions
from latex2mathml.converter import convert
from nbdev.config import get_config,nbpath2html
from nbdev.doclinks import _build_modidx
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs

traitlets.traitlets.Self = typing_extensions.Self # here, at the top, it holds in worker processes too: Python 3.11.2 evaluates this annotation of every widget, which traitlets imports for type checkers only

ROOT = Path(__file__).resolve().parent.parent
EXPECTED = ('output-file is not read', 'unknown key format-links', 'respect-user-color-scheme is ignored') # what is written for Quarto alone

def process():
    "Write _proc/: the notebooks with signatures and links, without their exported and hidden cells."
    refresh_quarto_yml()
    _build_modidx()
    return proc_nbs(n_workers=2)

def render(proc):
    "Let smalldocs render _proc/; stop on any warning that is not expected."
    done = subprocess.run([Path(sys.executable).parent/'smalldocs', 'render', '--quiet', proc], capture_output=True, text=True)
    wrong = [l for l in (done.stdout+done.stderr).splitlines() if l.strip() and not any(e in l for e in EXPECTED)]
    if wrong or done.returncode: sys.exit('\n'.join(['smalldocs is not content:', *wrong]))
    return proc/'_docs'

def mathml(page):
    "Formulas as MathML, which browsers draw themselves, in place of scripts fetched from a network."
    def formula(m): return convert(html.unescape(m[2]), display='block' if m[1]=='display' else 'inline')
    page = re.sub(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', formula, page, flags=re.S)
    return re.sub(r'\s*<(?:link|script)[^>]*katex[^>]*>(?:</script>)?', '', page)

def plain(page):
    "Signatures without the folder this was built in, and without the module they were read in."
    return page.replace(f'{ROOT}/', '').replace('__main__.', '')

def finish(site, cfg):
    "Name the pages as nbdev and Quarto do (metric.html, not 20_metric.html), and keep links between them inside the site."
    names = {f'{nb.stem}.html': nbpath2html(nb).name for nb in cfg.nbs_path.glob('*.ipynb')}
    old = re.compile(r'\b(' + '|'.join(map(re.escape, sorted(names))) + r')\b')
    here = re.compile(f'(<a [^>]*href="){re.escape(cfg.doc_host+cfg.doc_baseurl)}/?')
    for style in site.rglob('*.css'): style.write_text(re.sub(r'@import\s*(?:url\()?["\']?https:[^"\')]*["\']?\)?;', '', style.read_text(encoding='utf-8')), encoding='utf-8') # the themes' fonts from afar
    for path in [p for p in site.iterdir() if p.suffix in ('.html','.json','.xml')]:
        text = old.sub(lambda m: names[m[1]], path.read_text(encoding='utf-8'))
        path.unlink()
        path.with_name(names.get(path.name, path.name)).write_text(here.sub(r'\1', plain(mathml(text))) if path.suffix=='.html' else text, encoding='utf-8')
    pages = {p.name: p.read_text(encoding='utf-8') for p in site.glob('*.html')}
    ids = {name: set(re.findall(r'\bid="([^"]+)"', text)) for name,text in pages.items()}
    for name,text in pages.items():
        dead = lambda m: m[3] if m[2] not in ids.get(m[1] or name, {m[2]}) else m[0]
        (site/name).write_text(re.sub(r'<a [^>]*href="(?:\./)?([\w.]*)#([^"]+)"[^>]*>(.*?)</a>', dead, text, flags=re.S), encoding='utf-8') # what is private has no heading to link to

def complete(cfg):
    "Stop if a notebook is missing in the sidebar, which is written by hand."
    sidebar = (cfg.nbs_path/'sidebar.yml').read_text(encoding='utf-8')
    lost = [p.name for p in sorted(cfg.nbs_path.glob('[!_.]*.ipynb')) if p.name not in sidebar]
    if lost: sys.exit(f"not in nbs/sidebar.yml: {', '.join(lost)}")

def main():
    os.chdir(ROOT)
    cfg = get_config()
    complete(cfg)
    if shutil.which('quarto'): sys.exit(subprocess.run([Path(sys.executable).parent/'nbdev-docs']).returncode)
    proc = process()
    shutil.rmtree(proc/'_docs', ignore_errors=True)
    finish(built := render(proc), cfg)
    shutil.rmtree(cfg.doc_path, ignore_errors=True)
    shutil.move(built, cfg.doc_path)
    print(f'The site is in {cfg.doc_path.name}/index.html')

if __name__=='__main__': main()
