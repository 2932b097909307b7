"""Makes published.npz with the published package, not with ours.

Run it where `import mnist1d` finds the published one (0.0.2.post1) and not ours:

    python make_published.py published.npz

Kept of each case are its arguments, the first rows of its training and test data, all labels, the time axis.
"""

import json
import sys

import numpy as np

from mnist1d.data import get_dataset_args, make_dataset

ODD = {
    "num_samples": 300,
    "train_split": 0.55,
    "padding": [10, 25],
    "scale_coeff": 1.0,
    "max_translation": 90,  # longer than the sample of 37 positions
    "corr_noise_scale": 0.5,
    "iid_noise_scale": 0.1,
    "shear_scale": 2.0,
    "shuffle_seq": True,
    "final_seq_length": 23,
    "seed": 7,
}
CASES = {
    "default": {},
    "seed_43": {"seed": 43},
    "odd": ODD,
    "on_the_grid": {
        "num_samples": 500,
        "template_len": 13,
        "padding": [24, 48],
        "iid_noise_scale": 0.0,
        "seed": 0,
    },
    "own_templates": {"num_samples": 91, "seed": 1},
}
TEMPLATES = {
    "x": np.sin(np.outer([1, 2, 3], np.arange(7))),
    "t": np.linspace(0, 1, 7),
    "y": np.array([4, 2, 9]),
}


def main(path: str) -> None:
    kept = {}
    for name, changes in CASES.items():
        args = get_dataset_args()
        vars(args).update(changes)
        data = make_dataset(args, TEMPLATES if name == "own_templates" else None)
        rows = {"x": data["x"][:12], "x_test": data["x_test"][:6], "t": data["t"]}
        labels = {"y": data["y"].astype(np.int8), "y_test": data["y_test"].astype(np.int8)}
        kept |= {f"{name}/{key}": value for key, value in (rows | labels).items()}
    kept |= {f"own_templates/template_{key}": value for key, value in TEMPLATES.items()}
    np.savez_compressed(path, cases=json.dumps(CASES), **kept)


if __name__ == "__main__":
    main(sys.argv[1])
