"""Train a model that recommends films to a user, and save two versions of it as model packages.

    python examples/recommend/train.py        # prints the hit rates, writes out/recommend/v1 and out/recommend/v2

The model returns the ids of the five films that a user has not seen and would like most. The first version recommends
what most people like, the second what people with a similar taste like.
"""

from __future__ import annotations

import io
import timeit
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from mlmodel_server import package

SEED = 42
TOP = 5
USERS, FILMS, GENRES = 600, 150, 6


def likes() -> pd.DataFrame:
    """Make up which films each user liked, in the order of time. Users have a taste for some genres; some films are
    popular with all."""
    random = np.random.default_rng(SEED)
    taste = random.dirichlet(np.full(GENRES, 0.15), USERS)
    genre = random.dirichlet(np.full(GENRES, 0.15), FILMS)
    fame = random.lognormal(0, 0.5, FILMS)
    rows = []
    for user in range(USERS):
        chance = (taste[user] @ genre.T + 0.005) * fame
        for film in random.choice(FILMS, size=random.integers(6, 25), replace=False, p=chance / chance.sum()):
            rows.append((f"u{user:03}", f"film-{film:03}"))
    return pd.DataFrame(rows, columns=["user", "film"])


def matrix(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each user and a column for each film: 1 where the user liked it. Films that fewer than five
    users liked are left out: nothing can be learnt about them."""
    counts = table["film"].value_counts()
    known = table[table["film"].isin(counts[counts >= 5].index)]
    return pd.crosstab(known["user"], known["film"]).clip(upper=1)


def popularity(liked: pd.DataFrame) -> Any:
    """Score each film for each user: the number of users who like it."""
    return np.tile(liked.sum().to_numpy(dtype=float), (len(liked), 1))


def taste(liked: pd.DataFrame, factors: int) -> Any:
    """Score each film for each user: scale down what everyone likes, and describe users and films by a few factors."""
    scaled = TfidfTransformer().fit_transform(liked.to_numpy())
    model = TruncatedSVD(factors, random_state=SEED)
    return model.fit_transform(scaled) @ model.components_


def top(liked: pd.DataFrame, scores: Any) -> Any:
    """Return the ids of the best films for each user, without those that the user knows: [users, TOP]."""
    unknown = np.where(liked.to_numpy() > 0, -np.inf, scores)
    return liked.columns.to_numpy()[np.argsort(-unknown, axis=1)[:, :TOP]]


def hit_rate(films: Any, liked: pd.DataFrame, held_out: pd.Series) -> float:
    """Return the share of users whose held-out film is among those recommended."""
    return float(np.mean([held_out[user] in row for user, row in zip(liked.index, films, strict=True)]))


def compress(liked: pd.DataFrame, films: Any, popular: Any) -> Pipeline:
    """Return a model that only has the films of each user, which are all that a server needs.

    The nearest neighbour of a known id is that id. An unknown id becomes -1, next to the user "", who gets ``popular``.
    """
    users = pd.DataFrame({"user": ["", *liked.index]})
    encode = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    return make_pipeline(encode, KNeighborsClassifier(n_neighbors=1)).fit(users, np.vstack([popular, films]))


def tune(tuning: pd.DataFrame, held_out: pd.Series) -> int:
    """Return the number of factors with the best hit rate."""
    rates = {n: hit_rate(top(tuning, taste(tuning, n)), tuning, held_out) for n in (2, 4, 8, 16, 32)}
    print("hit rate by number of factors:", ", ".join(f"{n}: {rate:.3f}" for n, rate in rates.items()))
    return max(rates, key=lambda n: rates[n])


def size(content: Any) -> str:
    """Return the size of something as a file."""
    file = io.BytesIO()
    joblib.dump(content, file)
    return f"{len(file.getvalue()) / 1000:,.0f} kB"


def microseconds(model: Pipeline, users: pd.DataFrame) -> float:
    """Return the time that scikit-learn takes for one user."""
    return 1e6 * min(timeit.repeat(lambda: model.predict(users[:1]), number=1, repeat=20))


def main() -> None:
    table = likes()
    last = table.groupby("user").tail(1)  # what each user liked last is held out to evaluate, the one before it to tune
    train = table.drop(last.index)
    before = train.groupby("user").tail(1)
    print(f"{len(table):,} likes of {USERS} users; the last of each is held out; seed {SEED}")

    factors = tune(matrix(train.drop(before.index)), before.set_index("user")["film"])
    liked = matrix(train)
    popular = liked.sum().sort_values(ascending=False).index[:TOP]
    for version, scores in {"v1": popularity(liked), "v2": taste(liked, factors)}.items():
        films = top(liked, scores)
        model = compress(liked, films, popular)
        users = liked.index.to_frame(index=False)
        rate = hit_rate(films, liked, last.set_index("user")["film"])
        print(f"{version}: hit rate {rate:.3f}")
        print(f"  scores {size(scores)}, compressed to {size(model)}; {microseconds(model, users):,.0f} µs a user")
        package.save(model, users, None, f"out/recommend/{version}", version=version)
    print("saved out/recommend/v1 and out/recommend/v2; next: mlmodel inspect out/recommend/v2")


if __name__ == "__main__":
    main()
