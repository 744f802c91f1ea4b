"""What calls take is measured before any is answered."""

import time

from serving.engine import Engine
from serving.settings import Limits
from serving.warm_up import measure


def test_what_the_first_call_has_to_make_is_expected_of_no_other(bundle):
    engine, num_finished = Engine(bundle), 0

    def finish(_answer):
        nonlocal num_finished
        num_finished += 1
        time.sleep(0.7 if num_finished == 1 else 0.01)

    model = measure(bundle, lambda query, call: engine.recommend(query, call=call), limits=Limits(), finish=finish)
    assert 5 < max(model.predict(10).after_ms) < 300
