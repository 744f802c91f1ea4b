from __future__ import annotations

import pytest

from recsys.config import LossConfig, ModelConfig, TrainConfig
from recsys.errors import ConfigError, WidthError
from recsys.settings import from_mapping, from_toml, to_mapping


def test_mapping_is_a_way_there_and_back():
    config = TrainConfig(model=ModelConfig(widths=(8, 24), user_id=True), loss=LossConfig(temperature=(0.1, 0.2)))
    assert from_mapping(TrainConfig, to_mapping(config), where="test") == config


def test_toml_sets_what_it_names(tmp_path):
    path = tmp_path / "train.toml"
    path.write_text("epochs = 3\n[model]\nwidths = [8, 16]\n[loss]\ntemperature = [1]\n")
    config = from_toml(TrainConfig, path)
    assert (config.epochs, config.model.widths, config.loss.temperature) == (3, (8, 16), (1.0,))
    assert config.batch_size == TrainConfig().batch_size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epocs = 3", "unknown setting 'epocs'; did you mean 'epochs'"),
        ("[model]\nwidth = [8]", "train.toml: model: unknown setting 'width'; did you mean 'widths'"),
        ("[loss]\nkind = 'hinge'", "loss: kind: got 'hinge', expected one of"),
        ("epochs = '3'", "epochs: got '3', expected int"),
        ("epochs = true", "epochs: got True, expected int"),
        ("model = 3", "model: got 3, expected a table"),
        ("[model]\nwidths = 8", "widths: got 8, expected a list"),
        ('[model]\nhead = "own"', r"head: got 'own', expected one of \['tied', 'per_width'\]"),
        ("epochs = ", "not TOML"),
    ],
)
def test_a_bad_file_is_refused_with_the_place(tmp_path, text, message):
    path = tmp_path / "train.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        from_toml(TrainConfig, path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.toml: no such file"):
        from_toml(TrainConfig, tmp_path / "nothing.toml")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LossConfig(temperature=(0.0,)), "temperature: got"),
        (lambda: LossConfig(weights=(0.0,)), "weights: got"),
        (lambda: LossConfig(num_uniform_negatives=-1), "num_uniform_negatives: got -1"),
        (
            lambda: LossConfig(temperature=(0.1, 0.01), learn_temperature=True),
            "temperature: got .* above 0.01 with learn_temperature",
        ),
        (
            lambda: LossConfig(kind="hinge"),
            "kind: got 'hinge', expected one of sampled_softmax, bilateral_softmax, full",
        ),
        (lambda: LossConfig(kind="full_softmax"), "num_uniform_negatives: got 512, expected 0 with full_softmax"),
        (lambda: LossConfig(positive_ratio=2.0), "positive_ratio: got 2.0, expected 1 with sampled_softmax"),
        (lambda: LossConfig(kind="bilateral_softmax", positive_ratio=0.0), "positive_ratio: got 0.0, expected above 0"),
        (lambda: LossConfig(negative_weight=2.0), "negative_weight: got 2.0, expected 1 with sampled_softmax"),
        (lambda: LossConfig(num_popular_negatives=-1), "num_popular_negatives: got -1, expected 0 or more"),
        (lambda: LossConfig(popularity_power=0.0), "popularity_power: got 0.0, expected above 0"),
        (
            lambda: LossConfig(num_popular_negatives=8),
            "popularity_power: got None, .* without it an item's sampling probability, needed by logQ, is unknown",
        ),
        (lambda: LossConfig(num_hard_negatives=0), "num_hard_negatives: got 0, expected above 0"),
        (lambda: LossConfig(queue_size=-1), "queue_size: got -1, expected 0 or more"),
        (lambda: LossConfig(weights=(1.0, 0.0), learn_weights=True), "weights: got .* above 0 with learn_weights"),
        *(
            (
                lambda name=name: LossConfig(kind="full_softmax", num_uniform_negatives=0, **{name: 4}),
                f"{name}: got 4, expected .* with full_softmax: the whole catalogue is there already",
            )
            for name in ("num_batch_negatives", "queue_size", "num_hard_negatives")
        ),
        (lambda: TrainConfig(averaged_epochs=0), "averaged_epochs: got 0, expected above 0"),
        (
            lambda: TrainConfig(batch_size=8, loss=LossConfig(num_batch_negatives=9)),
            "loss.num_batch_negatives: got 9, expected at most 8, the rows of a batch",
        ),
        (
            lambda: TrainConfig(loss=LossConfig(num_uniform_negatives=0, num_batch_negatives=0)),
            "loss.num_batch_negatives: got 0, expected above 0 without drawn negatives",
        ),
        (lambda: LossConfig(distillation=-0.5), "distillation: got -0.5, expected 0 or more"),
        (lambda: LossConfig(energy_weight=-1.0), "energy_weight: got -1.0, expected 0 or more"),
        (lambda: LossConfig(energy_weight=float("inf")), "energy_weight: got inf, expected 0 or more, and finite"),
        (
            lambda: TrainConfig(batch_size=1, loss=LossConfig(num_uniform_negatives=0)),
            "batch_size: got 1, expected above 1 without drawn negatives",
        ),
        (
            lambda: TrainConfig(model=ModelConfig(history="sequence")),
            "loss.num_batch_negatives: got None, expected a number with history sequence",
        ),
        (lambda: LossConfig(energy_decay=0.5), "energy_decay: got 0.5, expected 1 or more, and finite"),
        (lambda: LossConfig(energy_parts=0), "energy_parts: got 0, expected above 0"),
        (lambda: LossConfig(energy_ramp=1.5), "energy_ramp: got 1.5, expected 0 to 1"),
        (
            lambda: TrainConfig(model=ModelConfig(widths=(8,)), loss=LossConfig(energy_weight=1.0)),
            "loss.energy_weight: got 1.0, expected 0 with the single width 8",
        ),
        (lambda: ModelConfig(embedding_dim=6), "embedding_dim: got 6, expected a multiple of 4"),
        (lambda: ModelConfig(history_windows=(5, 1)), "history_windows: got"),
        (lambda: ModelConfig(history_windows=()), "history_windows: got"),
        (lambda: ModelConfig(history_features=(5, 1)), r"history_features: got \(5, 1\), expected positive, strictly"),
        (
            lambda: ModelConfig(history="sequence", history_features=(1,)),
            r"history_features: got \(1,\), expected none with history sequence",
        ),
        (lambda: ModelConfig(history="lstm"), "history: got 'lstm', expected one of mean, attention, sequence, none"),
        (lambda: ModelConfig(history="sequence", sequence_length=0), "sequence_length: got 0, expected above 0"),
        (lambda: ModelConfig(history="sequence", num_blocks=0), "num_blocks: got 0, expected above 0"),
        (
            lambda: ModelConfig(history="sequence", num_heads=3),
            r"num_heads: got 3, expected a divisor of embedding_dim \(64\)",
        ),
        (lambda: ModelConfig(history="attention", num_heads=5), "num_heads: got 5"),
        (lambda: ModelConfig(time_bias=True), "time_bias: got True, expected false with history mean"),
        (lambda: ModelConfig(item_id_dropout=1.0), "item_id_dropout: got 1.0"),
        (lambda: ModelConfig(projection=False), r"hidden: got \(256,\), expected none without projection"),
        (
            lambda: ModelConfig(projection=False, hidden=(), widths=(8, 64), history_windows=(1, 5)),
            "user_id: got False, expected one input",
        ),
        (
            lambda: ModelConfig(projection=False, hidden=(), embedding_dim=32, history="none", user_id=True),
            "embedding_dim: got 32, expected the full width, 128 without projection",
        ),
        (lambda: TrainConfig(rows="event"), "rows: got 'event', expected auto with history mean"),
        (lambda: TrainConfig(rows="user"), "rows: got 'user', expected one of auto, event"),
        (lambda: ModelConfig(item_input_dropout=1.0), "item_input_dropout: got 1.0, expected at least 0 and below 1"),
        (lambda: TrainConfig(recency_half_life=0.0), "recency_half_life: got 0.0, expected above 0"),
        (
            lambda: TrainConfig(recency_half_life=9.0, model=ModelConfig(history="none", user_id=True)),
            "recency_half_life: got 9.0, expected none with history none",
        ),
        (lambda: TrainConfig(rate_schedule="step"), "rate_schedule: got 'step', expected one of constant, cosine"),
        (lambda: ModelConfig(history="none"), "history: got 'none', expected mean without user_id"),
        (lambda: ModelConfig(dropout=1.0), "dropout: got 1.0"),
        (lambda: ModelConfig(hidden=(0,)), "hidden: got"),
        (lambda: TrainConfig(batch_size=0), "batch_size: got 0"),
        (lambda: TrainConfig(table_learning_rate=0.0), "table_learning_rate: got 0.0"),
        (lambda: TrainConfig(device="tpu"), "device: got 'tpu'"),
        (lambda: TrainConfig(loss=LossConfig(temperature=(0.1, 0.1))), r"loss.temperature: got .* 4: one per width"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_widths_out_of_order_are_refused_before_anything_runs():
    with pytest.raises(WidthError, match="strictly increasing"):
        ModelConfig(widths=(64, 16))
