"""Plain values: what is written comes back equal, and what cannot be written is named."""

import json

import blackjax
import numpy as np
import pytest

from jaxllc import SGLD, BlackJAX, NamedSchedule, Settings

SCHEDULES = {
    "integer keys": NamedSchedule("optax:piecewise_constant_schedule", init_value=1e-5, boundaries_and_scales={100: 0.1}),
    "schedules in a list": NamedSchedule("optax:join_schedules", schedules=[NamedSchedule("optax:constant_schedule", value=1.0)] * 2, boundaries=[100]),
    "numbers of NumPy": NamedSchedule("optax:exponential_decay", init_value=np.float64(1e-5), transition_steps=np.int64(1000), decay_rate=0.5),
}
SAMPLERS = {name: SGLD(schedule) for name, schedule in SCHEDULES.items()} | {
    "a list of masses": BlackJAX(blackjax.nuts, step_size=1e-3, inverse_mass_matrix=[1.0, 2.0, 3.0]),
    "a function that another one made": BlackJAX(blackjax.hmc, step_size=1e-3, inverse_mass_matrix=np.ones(3), num_integration_steps=3,
                                                 integrator=blackjax.mcmc.integrators.mclachlan),
}  # fmt: skip


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_samplers_come_back(sampler):
    settings = Settings(sampler)
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_schedules_that_differ_in_one_number_differ():
    """By their numbers and not by their text, which leaves out the middle of a large array."""
    values = np.arange(5000.0)
    other = values.copy()
    other[2500] = -1
    one, two = (NamedSchedule("optax:constant_schedule", value=x) for x in (values, other))
    assert one != two
    assert one == NamedSchedule("optax:constant_schedule", value=values)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(num_draws="100"), "num_draws must be a whole number of at least 1, got '100'"),
        (dict(num_draws=100.5), "num_draws must be a whole number of at least 1, got 100.5"),
        (dict(num_chains=True), "num_chains must be a whole number"),
        (dict(num_chains=None), "num_chains must be a whole number"),
        (dict(batch_size="some"), "batch_size must be a whole number of at least 1, got 'some'; None takes all examples"),
        (dict(localization=None), "localization must be one number, got None"),
        (dict(localization=1j), "localization must be one number, got 1j"),
    ],
)
def test_settings_of_another_kind_are_named(fields, message):
    with pytest.raises(TypeError, match=message):
        Settings(**fields)


def test_whole_numbers_may_be_written_as_floats():
    """As TOML gives 1e3."""
    assert Settings.from_toml("num_draws = 1e3").num_draws == 1000


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ({"name": "NamedSchedule"}, "'NamedSchedule' is no Sampler"),
        ({"name": "BlackJAX"}, "BlackJAX needs 'algorithm', such as 'blackjax:barker'"),
        ({"step_size": 1e-5}, "has no 'name'; the choices are AdaptiveHMC, BlackJAX, HMC, MALA, MCLMC, NUTS, SGHMC, SGLD, SGNHT"),
    ],
)
def test_tables_that_lack_something_say_what(sampler, message):
    with pytest.raises(ValueError, match=message):
        Settings.from_dict({"sampler": sampler})


def test_a_sampler_stays_a_choice_when_someone_derives_from_it():
    class Mine(SGLD):
        pass

    with pytest.raises(ValueError, match="the choices are .*SGLD"):
        Settings.from_dict({"sampler": "SGDL"})
    assert issubclass(Mine, SGLD)
