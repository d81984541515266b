"""Whether several servers have one and the same model: pure decisions."""

from __future__ import annotations

import pytest

from embedwire._servers.agreement import Sample, Terms, difference, elected

ONE = [1.0, 2.0, 3.0, 4.0]


def sample(server: str = "http://a", model: str | None = "m", vector: list[float] | None = None) -> Sample:
    """What a server made of the sentence."""
    return Sample(server, model, list(ONE if vector is None else vector))


class TestDifference:
    """What speaks against two servers having the same model."""

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("m", "m"),
            ("m", None),
            (None, None),
            ("M", "m"),
            ("m:latest", "m"),
            ("/a/b/m.gguf", "m"),
            ("C:\\a\\m.GGUF", "org/m"),
        ],
    )
    def test_names_of_one_model(self, one: str | None, other: str | None) -> None:
        """Case, folders, a file's ending and Ollama's tag say nothing, nor does a name that is missing."""
        assert difference(sample(model=one), sample(model=other), Terms()) == ""

    @pytest.mark.parametrize(
        ("other", "reason"),
        [
            (sample("http://b", vector=ONE[:3]), "numbers"),
            (sample("http://b", model="n"), "'n'"),
            (sample("http://b", vector=ONE[::-1]), "cosine"),
            (sample("http://b", vector=[2 * number for number in ONE]), "length"),
            (sample("http://b", vector=[0.0] * 4), "another vector"),
        ],
        ids=["width", "name", "vector", "length", "zeros"],
    )
    def test_is_told(self, other: Sample, reason: str) -> None:
        """Each difference has its words, which name the other server."""
        why = difference(sample(), other, Terms())
        assert reason in why
        assert "http://b" in why

    @pytest.mark.parametrize(
        "now",
        [sample(vector=ONE[:3]), sample(model="n"), sample(vector=ONE[::-1])],
        ids=["width", "name", "vector"],
    )
    def test_of_its_former_self(self, now: Sample) -> None:
        """A server that differs from what it was itself is not told from a server of the same name."""
        why = difference(now, sample(), Terms())
        assert "http://a" not in why
        assert "before" in why or "it had" in why

    def test_a_little_is_nothing(self) -> None:
        """Servers with slots differ a little in each number."""
        assert difference(sample(vector=[1.0, 2.01, 3.0, 3.99]), sample(), Terms()) == ""

    def test_terms_are_heeded(self) -> None:
        """With a cosine of the user's names say nothing; at unit length the length says nothing."""
        other = sample(model="n", vector=[1.0, 2.0, 3.0, 3.5])
        assert difference(other, sample(), Terms())
        assert "length" in difference(other, sample(), Terms(least=0.98))
        assert difference(other, sample(), Terms(least=0.98, normalized=True)) == ""
        assert difference(other, sample(), Terms(least=0.9999, normalized=True))


class TestElected:
    """Which servers are used, of those that answered."""

    def test_all_that_agree(self) -> None:
        """All, in their order."""
        samples = [sample(f"http://{name}") for name in "abc"]
        assert elected(samples, Terms()) == samples

    def test_the_most(self) -> None:
        """The larger set, wherever its members stand."""
        odd, one, two = sample("http://a", "n"), sample("http://b"), sample("http://c")
        assert elected([odd, one, two], Terms()) == [one, two]
        assert elected([one, odd, two], Terms()) == [one, two]

    def test_none_of_two_that_differ(self) -> None:
        """Two that differ, or as many of one model as of another, are none."""
        one, other = sample("http://a"), sample("http://b", "n")
        assert elected([one, other], Terms()) == []
        assert elected([one, other, sample("http://c"), sample("http://d", "n")], Terms()) == []

    def test_one_alone(self) -> None:
        """One is used where no other answered; none where none did."""
        one = sample()
        assert elected([one], Terms()) == [one]
        assert elected([], Terms()) == []
