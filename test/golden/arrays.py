"""Arrays as NumPy writes them, for test/pure/sources.test.ts: python3 test/golden/arrays.py"""

import pathlib

import numpy as np

here = pathlib.Path(__file__).parent / "arrays"
here.mkdir(exist_ok=True)
# Element i is 7 i modulo 251, whatever the layout: the tests count the same way.
count = lambda *shape: (np.arange(np.prod(shape)) * 7 % 251).astype(np.uint8).reshape(shape)
labels = np.array([2, 0, 1, 2, 0])

np.savez(here / "nhwc.npz", images=count(5, 8, 8, 3), labels=labels)
np.savez_compressed(here / "nchw.npz", x_train=count(5, 3, 8, 8), y_train=labels.reshape(5, 1).astype(">i2"))
np.savez(here / "grey.npz", count(5, 8, 8), labels.astype(np.uint8))
np.save(here / "alone.npy", count(5, 8, 8, 1))
np.savez(here / "float.npz", images=np.zeros((5, 8, 8, 3), np.float32))
np.savez(here / "fortran.npz", images=np.asfortranarray(count(5, 8, 8, 3)))
np.savez(here / "which.npz", a=count(5, 8, 8), b=count(5, 8, 8))
