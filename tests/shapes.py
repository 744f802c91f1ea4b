"""The checker behind every shape annotation while tests run; in use, annotations cost nothing."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as type checkers have it
