"""The options of ``tools/predict.py`` that say what becomes of the masks."""

import argparse

from crack_plugin.inspection.preannotations import FORMATS
from crack_plugin.inspection.scale import ScaleError, read_scales
from crack_plugin.inspection.severity import PROFILES, find_profile
from crack_plugin.prediction.cracks import Wanted
from crack_plugin.prediction.report_page import Origin


def add_result_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options; for :func:`wanted_of`."""
    parser.add_argument(
        '--measure', action='store_true', help='length, width, orientation and density of the cracks in each image'
    )
    parser.add_argument(
        '--probabilities',
        action='store_true',
        help='of large GeoTIFFs, as another one: 0 to 254, scaled to 1; 255 without data',
    )
    parser.add_argument('--cracks', action='store_true', help='cracks.csv: each connected crack in a row')
    parser.add_argument(
        '--vector',
        nargs='+',
        choices=('gpkg', 'geojson'),
        default=(),
        help="cracks as polygons and centrelines, in a GeoTIFF's CRS or in pixels (gpkg, and any GeoTIFF: "
        'pip install "crack_plugin[geo]")',
    )
    parser.add_argument(
        '--severity',
        metavar='NAME_OR_FILE',
        help=f'rate each crack by its width in mm: {", ".join(PROFILES)}, or a YAML file of your own',
    )
    parser.add_argument(
        '--width-profile', action='store_true', help='profiles.csv: the width along the centreline of each crack'
    )
    parser.add_argument(
        '--labels',
        nargs='+',
        choices=FORMATS,
        default=(),
        help='predictions as annotations to be corrected, and uncertainty.csv: which images to correct first',
    )
    parser.add_argument(
        '--report', action='store_true', help='report.html: the cracks of all photographs on one page, to be printed'
    )
    parser.add_argument(
        '--mm-per-pixel',
        metavar='MM_OR_CSV',
        help='scale of the photographs, to measure in millimetres: a figure for all, or a CSV file with the columns '
        'image, mm_per_pixel',
    )


def wanted_of(args: argparse.Namespace) -> Wanted:
    """What the options ask for.

    Raises:
        ScaleError: The scale cannot be read, or nothing that is asked for has one.
        SeverityError: There is no such profile, or its file has a fault.
    """
    wanted = Wanted(
        measure=args.measure,
        probabilities=args.probabilities,
        cracks=args.cracks,
        vector=tuple(dict.fromkeys(args.vector)),
        severity=None if args.severity is None else find_profile(args.severity),
        width_profile=args.width_profile,
        labels=tuple(dict.fromkeys(args.labels)),
        report=Origin(args.config, args.checkpoint or args.adapter) if args.report else None,
        scales=read_scales(args.mm_per_pixel),
    )
    if args.mm_per_pixel is not None and not (wanted.measure or wanted.features):
        raise ScaleError(
            '--mm-per-pixel is the scale of --measure, --cracks, --vector, --severity, --width-profile and --report: '
            'give one of them, too.'
        )
    return wanted
