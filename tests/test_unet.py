"What the notebook on the U-Net cannot show: encoders of many families, odd sizes, what is kept and what comes back."
import json
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastai.torch_core import TensorImage
from hypothesis import given,settings as how,strategies as st
from lumbar_nbdev.core import ModelError
from lumbar_nbdev.unet import CHANNELS,ENCODER,Unet,create_encoder,dice,load_weights,read_card,save_model

def random_unet(name=ENCODER, classes=4, **kwargs):
    "A U-Net with random weights."
    torch.manual_seed(0)
    return Unet(create_encoder(name, pretrained=False, features_only=True, **kwargs), classes).eval()

@pytest.fixture(scope='module')
def net():
    torch.manual_seed(0)
    return Unet(create_encoder(features_only=True), 4).eval()

@pytest.fixture(scope='module')
def picture(): return torch.rand(1,3,101,67, generator=torch.Generator().manual_seed(0))

FAMILIES = ('resnet18','mobilenetv3_small_050','convnext_atto','regnetx_002','efficientnet_b0','mambaout_femto','vgg11','test_vit')

@pytest.mark.parametrize('name', FAMILIES)
@torch.no_grad()
def test_families(name):
    "Any ladder of maps will do: two to five skips, channels first or last; sizes that are multiples of nothing; one channel or three."
    net = random_unet(name, **(dict(dynamic_img_size=True) if 'vit' in name else {}))
    for shape in ((1,1,64,64),(2,3,50,77),(1,3,33,130)):
        scores = net(torch.rand(shape))
        assert scores.shape==(shape[0],4,*shape[2:]) and scores.isfinite().all()
        assert scores.std((2,3)).min()>0, "a picture must not give the same scores everywhere"

@torch.no_grad()
def test_built_for_one_size():
    "A transformer that is told the size of the pictures; its channels come last, and as many as there are rows."
    net = random_unet('swin_tiny_patch4_window7_224', img_size=96)
    assert net.channels_last and net(torch.rand(1,1,96,96)).shape==(1,4,96,96)

@torch.no_grad()
def test_one_channel_is_three_equal_ones(net, picture):
    grey = picture[:,:1]
    assert torch.allclose(net(grey), net(grey.expand(-1,3,-1,-1)), atol=1e-5)
    assert not torch.allclose(net(picture), net(picture[:,[2,1,0]]), atol=1e-2), "three different channels are three, not their mean"

@torch.no_grad()
def test_continued_by_its_own_edge(net, picture):
    larger = F.pad(picture, (0,29,0,27), mode='replicate')
    assert torch.allclose(net(larger)[...,:101,:67], net(picture), atol=1e-4)

@torch.no_grad()
def test_a_batch_is_its_pictures(net):
    batch = torch.rand(3,3,64,96)
    assert torch.allclose(net(batch), torch.cat([net(x[None]) for x in batch]), atol=1e-4)

@torch.no_grad()
def test_fastai_pictures(net, picture):
    assert torch.allclose(net(TensorImage(picture)).as_subclass(torch.Tensor), net(picture), atol=1e-6)

def test_everything_learns():
    "Each weight is reached by the loss, those of all skips included."
    net = random_unet().train()
    F.cross_entropy(net(torch.rand(2,1,64,64)), torch.randint(4,(2,64,64))).backward()
    still = [n for n,p in net.named_parameters() if p.grad is None or not p.grad.abs().sum()>0]
    assert not still

def test_channels():
    encoder = create_encoder(pretrained=False, features_only=True)
    plain,wide = Unet(encoder, 4, ()), Unet(encoder, 4, (9,8,7,6))
    assert len(plain.ups)==0 and plain.head.in_channels==320 and len(CHANNELS)==4
    assert [u.mix[0][0].out_channels for u in wide.ups]==[9,8,7,6] and wide.head.in_channels==6

def test_encoder_and_classifier_share_their_weights():
    whole,body = create_encoder().state_dict(), create_encoder(features_only=True).state_dict()
    assert body and all(torch.equal(v, whole[k]) for k,v in body.items())
    grey = create_encoder(features_only=True, in_chans=1).state_dict()['conv_stem.weight']
    assert torch.allclose(grey, body['conv_stem.weight'].sum(1, keepdim=True), atol=1e-6)

def test_half(net, picture, tmp_path):
    "Convolutions in 16 bits, the rest untouched; half the size; read back into 32 bits; said in the card."
    whole,half = (json.loads(save_model(net, tmp_path/n, dict(kind='toy'), n=='half').read_text()) for n in ('whole','half'))
    assert (whole['precision'],half['precision'])==('float32','float16')
    size = lambda n: (tmp_path/f'{n}.safetensors').stat().st_size
    assert size('half') < .53*size('whole')
    a,b = (load_weights(random_unet(), tmp_path/n, read_card(tmp_path/n, 'toy')) for n in ('whole','half'))
    for (k,u),v,w in zip(net.state_dict().items(), a.state_dict().values(), b.state_dict().values()):
        assert torch.equal(u,v) and w.dtype==u.dtype and (torch.allclose(u,w,rtol=1e-3,atol=1e-6) if u.ndim>1 else torch.equal(u,w)), k
    with torch.no_grad(): assert torch.equal(a(picture), net(picture)) and (b(picture)-net(picture)).abs().max() < .02*net(picture).std()

def test_a_card_that_cannot_be_written_harms_nothing(net, tmp_path):
    save_model(net, tmp_path/'m', dict(kind='toy'))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(TypeError): save_model(random_unet(classes=2), tmp_path/'m', dict(kind='toy', what=object()))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()}==before

@pytest.mark.parametrize('name', ('', 'unet', 'resnet18 ', '../resnet18', 'hf-hub:someone/model', 'http://localhost/model'))
def test_unknown_encoder(name):
    with pytest.raises(ModelError, match='no such model'): create_encoder(name, pretrained=False)

@how(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0,3),st.integers(0,3)), min_size=1, max_size=40))
def test_dice(pairs):
    a,b = np.array(pairs).T
    for k in range(4):
        d,both,each = dice(a,b,k), sum(x==y==k for x,y in pairs), sum((x==k)+(y==k) for x,y in pairs)
        assert np.isnan(d) if not each else d==dice(b,a,k)==dice(torch.tensor(a),torch.tensor(b),k)==2*both/each
