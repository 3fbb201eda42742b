"""Settings are one value: written down and read back, changed field by field, and overridden by a call."""

import json
import tomllib

import blackjax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import Quadratic, quadratic_loss
from sampler_cases import EVERY
from trajectories import SHORT

import jaxllc
from jaxllc import HMC, MALA, MCLMC, NUTS, SGHMC, SGLD, SGNHT, Adam, BlackJAX, ControlVariate, NamedSchedule, RMSProp, Settings
from jaxllc.settings import override
from jaxllc.stepsize import LargerInBurnIn

PROBLEM = Quadratic()


def falling(count):
    """A schedule of a module, which is found by its name."""
    return 1e-3 / (1 + count / 100)


MASSES = np.arange(1, 6, dtype=np.float32)
WRITTEN = {name: sampler for name, sampler in EVERY.items() if name != "sgld, schedule"} | {
    "left open": SGLD(None),
    "larger in burn-in": SGLD(None, burn_in_factor=4.0),
    "resolved, larger in burn-in": SGLD(None, burn_in_factor=4.0).with_default_step_size(1e-3, 100),
    "a scalar of JAX": SGLD(jnp.asarray(0.25)),
    "no number": SGHMC(None),
    "everything": SGHMC(1e-3, friction=2.0, gradient=ControlVariate(), noise="gaussian"),
    "rmsprop": SGLD(1e-3, RMSProp(0.9, 0.2)),
    "adam": SGLD(1e-3, Adam(0.8, 0.99, 0.2)),
    "thermostat": SGNHT(1e-3, friction=1.0),
    "mala": MALA(None),
    "hmc": HMC(1e-3, num_integration_steps=3),
    "nuts": NUTS(1e-3, max_num_doublings=3),
    "mclmc": MCLMC(1e-3, memory=12.0),
    "a function of a module": SGLD(falling),
    "a schedule of optax by name": SGLD(NamedSchedule("optax:cosine_decay_schedule", init_value=1e-5, decay_steps=1000)),
    "boundaries": SGLD(NamedSchedule("optax:linear_schedule", init_value=1e-5, end_value=1e-6, transition_steps=10)),
    "blackjax": BlackJAX(blackjax.barker, step_size=0.1),
    "blackjax by place": BlackJAX("blackjax:mala", step_size=0.1),
    "blackjax with an array": BlackJAX(blackjax.hmc, step_size=0.1, inverse_mass_matrix=MASSES, num_integration_steps=3),
}
every_written = pytest.mark.parametrize("sampler", WRITTEN.values(), ids=WRITTEN)


def toml(table, path=()):
    """A table of plain values as TOML."""
    inner = {name: value for name, value in table.items() if isinstance(value, dict)}
    lines = [f"[{'.'.join(path)}]"] if path else []
    lines += [f"{name} = {json.dumps(value)}" for name, value in table.items() if name not in inner]  # numbers, texts and lists are written alike
    return "\n".join([*lines, *(toml(value, (*path, name)) for name, value in inner.items())])


def settings_with(sampler):
    return Settings(sampler, nbeta=123.5, localization=2.0, batch_size=None, num_chains=3, num_draws=40, num_burn_in=7, thinning=2)


@every_written
def test_to_dict_and_from_dict_are_inverse(sampler):
    settings = settings_with(sampler)
    assert Settings.from_dict(settings.to_dict()) == settings
    assert Settings.from_dict(settings.to_dict()).to_dict() == settings.to_dict()


@every_written
def test_through_json(sampler):
    """Seen to fail with tuples read back as lists, and with arrays read back without their dtype."""
    settings = settings_with(sampler)
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


@every_written
def test_through_toml(sampler):
    settings = settings_with(sampler)
    text = toml(settings.to_dict())
    assert Settings.from_toml(text) == settings
    assert tomllib.loads(text) == settings.to_dict()


def test_what_differs_is_told_apart():
    """An equality that says yes to all would pass the tests above."""
    settings = [settings_with(sampler) for sampler in {name: x for name, x in WRITTEN.items() if name not in EVERY}.values()]
    assert all((a == b) == (i == j) for i, a in enumerate(settings) for j, b in enumerate(settings))
    assert settings_with(BlackJAX(blackjax.hmc, inverse_mass_matrix=MASSES)) != settings_with(BlackJAX(blackjax.hmc, inverse_mass_matrix=MASSES + 1))


def test_plain_values_by_hand():
    """The table of a configuration file, literally."""
    assert Settings(SGLD(1e-5, gradient=ControlVariate()), nbeta=100, batch_size=None, extrapolate=True).to_dict() == {
        "sampler": {
            "name": "SGLD",
            "step_size": 1e-5,
            "preconditioner": {"name": "Identity"},
            "gradient": {"name": "ControlVariate"},
            "noise": "rademacher",
            "burn_in_factor": 1.0,
        },
        "nbeta": 100.0,
        "localization": 1.0,
        "batch_size": "all",
        "num_chains": 8,
        "num_draws": 1000,
        "num_burn_in": 500,
        "thinning": 1,
        "extrapolate": "step_size",
        "dispersion": 0.0,
    }
    written = BlackJAX(blackjax.hmc, inverse_mass_matrix=MASSES, num_integration_steps=3).to_dict()
    array = {"array": [1.0, 2.0, 3.0, 4.0, 5.0], "dtype": "float32"}
    assert written == {"name": "BlackJAX", "algorithm": "blackjax:hmc", "parameters": {"inverse_mass_matrix": array, "num_integration_steps": 3}}


def test_a_configuration_file_may_be_short():
    text = 'num_draws = 50\n[sampler]\nname = "SGHMC"\nstep_size = 1e-4\n'
    assert Settings.from_toml(text) == Settings(SGHMC(1e-4), num_draws=50)
    assert Settings.from_dict({"sampler": "SGLD"}) == Settings(SGLD(None))
    assert Settings.from_dict({}) == Settings()


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"draws": 3}, "settings have no field 'draws'; they have sampler, nbeta"),
        ({"sampler": {"name": "SGDL", "step_size": 1.0}}, "no class is called 'SGDL'; the choices are .*SGLD"),
        ({"sampler": {"name": "SGLD", "stepsize": 1.0}}, "SGLD has no field 'stepsize'; it has step_size"),
        ({"sampler": {"name": "SGLD", "step_size": {"function": "optax:nothing"}}}, "the module 'optax' has no 'nothing'"),
        ({"sampler": {"name": "SGLD", "step_size": {"function": "no_such_module:f"}}}, "names no module that can be imported"),
        ({"num_draws": 0}, "num_draws must be at least 1"),
    ],
)
def test_tables_that_say_nothing_are_refused(table, told):
    with pytest.raises(ValueError, match=told):
        Settings.from_dict(table)


@pytest.mark.parametrize("schedule", [lambda count: 1e-3, optax.constant_schedule(1e-3)], ids=["lambda", "closure"])
def test_what_cannot_be_written_down_is_told_with_a_way_out(schedule):
    settings = Settings(SGLD(schedule))
    with pytest.raises(
        ValueError, match=r"SGLD\.step_size|Scheduled\.schedule.* cannot be written down, since no module has it under a name; .*jaxllc\.NamedSchedule\("
    ):
        settings.to_dict()


def test_an_algorithm_without_a_place_is_told():
    with pytest.raises(ValueError, match=r"BlackJAX\(algorithm\).* cannot be written down"):
        Settings(BlackJAX(lambda log_density, step_size: None, step_size=0.1)).to_dict()


def test_replace_changes_some_fields():
    settings = settings_with(SGLD(1e-3))
    longer = settings.replace(num_draws=80, sampler=SGHMC(1e-3))
    assert longer == Settings(SGHMC(1e-3), nbeta=123.5, localization=2.0, batch_size=None, num_chains=3, num_draws=80, num_burn_in=7, thinning=2)
    assert settings.num_draws == 40
    with pytest.raises(TypeError, match="'draws' is neither an argument nor a field of Settings, which has sampler, "):
        settings.replace(draws=3)
    with pytest.raises(ValueError, match="num_draws must be at least 1, got 0"):
        settings.replace(num_draws=0)


@pytest.mark.parametrize(("given", "kept"), [(None, None), (False, None), (True, "step_size"), ("step_size", "step_size"), ("nbeta", "nbeta")])
def test_extrapolate_has_one_spelling(given, kept):
    assert Settings(extrapolate=given).extrapolate == kept


def test_only_the_step_and_nbeta_are_extrapolated():
    with pytest.raises(ValueError, match=r"extrapolate must be None, 'step_size' \(or True\) or 'nbeta', got 'temperature'"):
        Settings(extrapolate="temperature")


@pytest.mark.parametrize("sampler", [MALA(1e-2), HMC(1e-2), NUTS(1e-2), BlackJAX(blackjax.barker, step_size=0.1)], ids=["mala", "hmc", "nuts", "barker"])
def test_samplers_without_a_bias_are_not_extrapolated_over_the_step(sampler):
    with pytest.raises(ValueError, match=f"the steps of {type(sampler).__name__} have no bias, so extrapolate=.step_size. only adds noise"):
        Settings(sampler).replace(extrapolate=True)


def test_numbers_are_floats_and_steps_are_counted():
    settings = Settings(nbeta=np.float32(50), localization=3, num_burn_in=10, num_draws=5, thinning=4)
    assert (settings.nbeta, settings.localization) == (50.0, 3.0)
    assert (type(settings.nbeta), type(settings.localization)) == (float, float)
    assert settings.num_iterations == 10 + 4 * 4 + 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"nbeta": 0.0}, "nbeta must be finite and positive, got 0.0"),
        ({"nbeta": np.nan}, "nbeta must be finite and positive, got nan"),
        ({"localization": -1.0}, "localization must be finite and at least 0, got -1.0"),
        ({"localization": np.inf}, "localization must be finite and at least 0, got inf"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"num_chains": 0}, "num_chains must be at least 1, got 0"),
        ({"num_draws": 0}, "num_draws must be at least 1, got 0"),
        ({"num_burn_in": -1}, "num_burn_in must be at least 0, got -1"),
        ({"thinning": 0}, "thinning must be at least 1, got 0"),
        ({"sampler": SGLD(-1e-3)}, r"every number of SGLD\(step_size=-0.001.* at least 0, got -0.001"),
    ],
)
def test_numbers_without_meaning_are_named(options, told):
    with pytest.raises(ValueError, match=told):
        Settings(**options)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"nbeta": "100"}, "nbeta must be one number, got '100'"),
        ({"nbeta": np.ones(3)}, "nbeta must be one number"),
        ({"sampler": 1e-4}, r"sampler must be a sampler such as jaxllc\.SGLD"),
        ({"sampler": SGLD}, r"sampler must be a sampler such as jaxllc\.SGLD"),
    ],
)
def test_wrong_types_are_named(options, told):
    with pytest.raises(TypeError, match=told):
        Settings(**options)


def test_settings_of_a_call_are_the_settings_with_its_keywords_in_their_place():
    settings = settings_with(SGLD(1e-3))
    assert override(settings, {}) is settings or override(settings, {}) == settings
    assert override(settings, {"nbeta": 2.0}) == settings.replace(nbeta=2.0)
    assert override(None, {"num_draws": 3}) == Settings(num_draws=3)


def test_keywords_of_a_call_beat_its_settings(key):
    """In the settings of the result, of both verbs, and in its draws."""
    settings = Settings(SGLD(1e-3), nbeta=20.0, localization=3.0, num_chains=2, num_draws=50, num_burn_in=3)
    run = dict(key=key, progress=False)
    est = jaxllc.estimate(quadratic_loss, PROBLEM.params, PROBLEM.data, settings, num_draws=6, nbeta=50.0, **run)
    assert est.settings == settings.replace(num_draws=6, nbeta=50.0, batch_size=20)
    assert est.data["posterior/llc"].shape == (2, 6)
    by_keywords = dict(sampler=SGLD(1e-3), nbeta=50.0, localization=3.0, num_chains=2, num_draws=6, num_burn_in=3)
    np.testing.assert_array_equal(
        est.data["posterior/llc"], jaxllc.estimate(quadratic_loss, PROBLEM.params, PROBLEM.data, **by_keywords, **run).data["posterior/llc"]
    )
    traj = jaxllc.trajectory(quadratic_loss, {0: PROBLEM.params}, PROBLEM.data, settings, num_draws=6, nbeta=50.0, **run)
    assert traj.settings == est.settings


@pytest.mark.parametrize("verb", [jaxllc.estimate, jaxllc.trajectory])
def test_a_keyword_that_is_none_is_refused(verb, key):
    with pytest.raises(TypeError, match="'num_samples' is neither an argument nor a field of Settings"):
        verb(quadratic_loss, {0: PROBLEM.params} if verb is jaxllc.trajectory else PROBLEM.params, PROBLEM.data, key=key, num_samples=3)
    with pytest.raises(TypeError, match=r"settings must be a jaxllc\.Settings, got SGLD; pass single settings by name"):
        verb(quadratic_loss, {0: PROBLEM.params} if verb is jaxllc.trajectory else PROBLEM.params, PROBLEM.data, SGLD(1e-3), key=key)


def test_a_result_tells_its_settings_with_defaults_resolved(key):
    options = SHORT | dict(sampler=SGLD(None, burn_in_factor=2.0), nbeta=None, batch_size=256)
    est = jaxllc.estimate(quadratic_loss, PROBLEM.params, PROBLEM.rows, key=key, **options)
    assert est.settings.nbeta == jaxllc.default_nbeta(400)
    assert est.settings.batch_size == 256
    schedule = est.settings.sampler.step_size
    assert schedule.schedule == LargerInBurnIn(2.0, 10)
    assert float(schedule.factor) == pytest.approx(est.data.attrs["default_step_size"])


def test_a_result_whose_sampler_could_not_be_written_says_so(key):
    est = jaxllc.estimate(quadratic_loss, PROBLEM.params, PROBLEM.data, key=key, **SHORT | {"sampler": SGLD(optax.constant_schedule(1e-3))})
    with pytest.raises(ValueError, match=r"the sampler of this result could not be written down when it was made: SGLD\(step_size=schedule\(0: 0\.001"):
        _ = est.settings
