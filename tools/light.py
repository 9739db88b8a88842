"Make the notebooks' stored pictures as small as they can be without changing a pixel: `python tools/light.py nbs/*.ipynb`."
import base64,io,json,sys
import numpy as np
from PIL import Image

def light(data):
    "The same picture in fewer bytes: no alpha where nothing shows through, grey or a palette where that is all there is."
    image = Image.open(io.BytesIO(data)).convert('RGBA')
    pixels = np.asarray(image)
    if (pixels[...,3]<255).any(): return data
    image = image.convert('RGB')
    if (pixels[...,0]==pixels[...,1]).all() and (pixels[...,0]==pixels[...,2]).all(): image = image.convert('L')
    elif len(np.unique(pixels.reshape(-1,4), axis=0))<=256: image = image.convert('P', palette=Image.Palette.ADAPTIVE, colors=256)
    out = io.BytesIO(); image.save(out, 'PNG', optimize=True)
    again = np.asarray(Image.open(out).convert('RGBA'))
    return min((out.getvalue(), data), key=len) if (again==pixels).all() else data

def main(paths):
    for path in paths:
        nb,saved = json.load(open(path, encoding='utf-8')), 0
        for output in (o for c in nb['cells'] for o in c.get('outputs', []) if 'image/png' in o.get('data', {})):
            old = output['data']['image/png']; old = ''.join(old).strip()
            new = base64.b64encode(light(base64.b64decode(old))).decode()
            if len(new)<len(old): output['data']['image/png'],saved = new, saved+len(old)-len(new)
        if saved:
            with open(path, 'w', encoding='utf-8') as f: json.dump(nb, f, indent=1, ensure_ascii=False, sort_keys=True); f.write('\n')
            print(f'{path}: {saved//1000} kB less')

if __name__=='__main__': main(sys.argv[1:])
