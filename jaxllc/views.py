"""Views of a result: of a single checkpoint with or without its axis, and of one component."""

from typing import TYPE_CHECKING

from jaxllc import results

if TYPE_CHECKING:
    import xarray


def only_step(tree: "xarray.DataTree") -> "xarray.DataTree":
    """A result of one checkpoint without its axis `step`."""
    import xarray as xr

    nodes = {"/": tree.to_dataset(), **{name: child.to_dataset(inherit=False) for name, child in tree.children.items()}}
    return xr.DataTree.from_dict({name: node.squeeze(results.STEP, drop=True) for name, node in nodes.items()})


def with_steps(tree: "xarray.DataTree") -> "xarray.DataTree":
    """The result with an axis `step`, also where it is of one checkpoint."""
    if results.STEP in tree["posterior/llc"].dims:
        return tree
    import xarray as xr

    groups = {name: child.to_dataset(inherit=False).expand_dims(results.STEP) for name, child in tree.children.items()}
    return xr.DataTree.from_dict({"/": tree.to_dataset(), **groups})


def component_names(tree: "xarray.DataTree") -> tuple[str, ...]:
    """Names of the components of a result; none where it has no such axis."""
    return tuple(name for name, _ in tree.attrs.get(results.COMPONENTS, ()))


def of_component(tree: "xarray.DataTree", name: str) -> "xarray.DataTree":
    """The result of one component, as if it alone had been asked for by `free`.

    Raises:
        KeyError: there is no such component.
    """
    import xarray as xr

    names = component_names(tree)
    if name not in names:
        raise KeyError(f"no component {name!r}; this result has {', '.join(map(repr, names)) or 'none'}.")
    index = names.index(name)
    nodes = {"/": tree.to_dataset(), **{group: child.to_dataset(inherit=False) for group, child in tree.children.items()}}
    nodes = {group: node.isel(component=index, drop=True) if results.COMPONENT in node.dims else node for group, node in nodes.items()}
    attributes = {key: value for key, value in tree.attrs.items() if key not in (results.COMPONENTS, "component_weights")}
    chosen = {"free": tree.attrs[results.COMPONENTS][index][1], "num_weights": tree.attrs["component_weights"][index], results.COMPONENT: name}
    nodes["/"].attrs = attributes | chosen
    return xr.DataTree.from_dict(nodes)
