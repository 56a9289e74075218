"""Made-up text with the look of a web page: words of a fixed vocabulary, a tag or a link now and then."""
import numpy as np


def words(rng, length):
    """Give `length` bytes of text drawn with a NumPy generator."""
    letters = np.frombuffer(b"etaoinshrdlucmfwypvbgkjqxz", np.uint8)
    likely = np.arange(26, 0, -1) / 351.0
    sizes = rng.integers(2, 10, 2000)
    drawn = rng.choice(letters, int(sizes.sum()), p=likely).tobytes()
    ends = np.cumsum(sizes).tolist()
    vocabulary = [drawn[end - size:end] for end, size in zip(ends, sizes.tolist())]
    vocabulary += [b'<p class="%s">' % word for word in vocabulary[:80]]
    vocabulary += [b'<a href="/%s/%d.html">%s</a>' % (word, 37 * i, word) for i, word in enumerate(vocabulary[80:140])]
    vocabulary += [word + b".\n" for word in vocabulary[140:260]]
    picked = rng.integers(0, len(vocabulary), length // 3 + 1)
    return b" ".join(vocabulary[i] for i in picked.tolist())[:length]
