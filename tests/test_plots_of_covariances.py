"""Pictures of covariances: every component has its matrix, what does not vary is drawn too, and labels are those of the elements."""

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr

from jaxllc.influence import Covariances
from jaxllc.plots_of_covariances import two_dimensions

mpl.use("agg")
NUM = 12


def matrix(components=3, columns=NUM):
    rng = np.random.default_rng(0)
    value = rng.normal(size=(components, NUM, columns)).astype(np.float32)
    value[:, 2] = np.nan
    dims = ("component", "element", "element_other")
    data = xr.Dataset({"value": (dims, value), "std_error": (dims, np.abs(value) / 3)}, {"component": [f"part {i}" for i in range(components)]})
    return Covariances(data.assign(findings=("component", np.zeros(components, object))))


@pytest.mark.parametrize("components", [1, 3, 10])
def test_a_matrix_for_each_component(components):
    """At most four beside each other, so that the picture stays readable; NaN of elements that do not vary leave the others in clusters."""
    axes = matrix(components).plot(labels=range(NUM))
    assert [axis.get_title() for axis in axes] == [f"part {i}" for i in range(components)]
    assert axes[0].figure.get_figwidth() < 20
    assert sorted(label.get_text() for label in axes[0].get_yticklabels()) == sorted(map(str, range(NUM)))


def test_labels_are_those_of_the_rows():
    axes = matrix(columns=60).plot(labels=range(NUM))
    assert len(axes[0].get_yticklabels()) == NUM
    assert not axes[0].get_xticklabels()
    with pytest.raises(ValueError, match="there are 2 labels for 12 elements"):
        matrix().plot(labels=["a", "b"])


def vectors(components=3):
    value = np.random.default_rng(0).normal(size=(components, 4, 5))
    return Covariances(xr.Dataset({"value": (("component", "tokens_dim_0", "tokens_dim_1"), value), "findings": ("component", np.zeros(components, object))}))


def test_a_map_of_susceptibilities():
    axis = vectors().plot(labels=np.arange(20) % 2)
    assert axis.get_xlabel().startswith(("first principal component", "UMAP"))
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["0", "1"]
    with pytest.raises(ValueError, match="there are 3 labels for 20 elements"):
        vectors().plot(labels=["a", "b", "c"])
    with pytest.raises(ValueError, match="two components at least"):
        vectors(1).plot()


def test_principal_components_are_those_of_the_vectors():
    """Of points on a line one direction has all of the variance."""
    t = np.linspace(-1, 1, 9)
    points, names = two_dimensions(np.stack([t, -2 * t, 3 * t], 1), "pca")
    assert names[0] == "first principal component, 100%"
    np.testing.assert_allclose(np.abs(points[:, 0]), np.sqrt(3) * np.abs(t) / t.std(), atol=1e-12)
