"""README's picture, from what ``make demo`` left: ``python benchmarks/readme_picture.py [--out docs/result.png]``.

The first validation pictures (drawn, no photographs), each as it is, with its label, and with what the embedded tiny
SAM 3 finds before and after training.
"""

import argparse
from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from crack_plugin.cli import readable_errors
from crack_plugin.prediction import Predictor
from crack_plugin.visualization.panels import save_contact_sheet

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs' / 'sam3_tiny_lora_crack.py'
ZERO_SHOT = ROOT / 'configs' / 'sam3_tiny_zeroshot_crack.py'


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=Path('data/demo'), help='pictures of the demo')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'), help='results of the demo')
    parser.add_argument('--pictures', type=int, default=2, help='how many (default: 2)')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs' / 'result.png')
    args = parser.parse_args()
    with readable_errors(parser):
        cfg = Config.fromfile(CONFIG)
        init_default_scope(cfg.default_scope)
        dataset = DATASETS.build(cfg.val_dataloader.dataset | {'data_root': str(args.data), 'pipeline': []})
        load = Compose([{'type': 'LoadImageFromFile'}, {'type': 'LoadYOLOPolygons'}])
        samples = [load(dataset.get_data_info(index)) for index in range(args.pictures)]
        checkpoint = (args.work_dir / 'last_checkpoint').read_text(encoding='utf-8')
        models = {
            'zero-shot': Predictor(ZERO_SHOT, device='cpu'),
            'with LoRA': Predictor(CONFIG, checkpoint, device='cpu'),
        }
        found = {name: [model(sample['img_path']).labels for sample in samples] for name, model in models.items()}
    images = [sample['img'][..., ::-1] for sample in samples]
    save_contact_sheet(args.out, images, [sample['gt_seg_map'] for sample in samples], found)
    print(args.out)


if __name__ == '__main__':
    main()
