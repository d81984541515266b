"""One job's body and reply, over its repeats: what is asked for, and what the reply shows of the server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from embedwire._http.asking import Asked, Lesson, asked_for, is_about_asking, is_open, lesson_of
from embedwire._http.dimensions import fit
from embedwire._http.messages import screened
from embedwire._http.records import Fault, Job, Matrix
from embedwire._http.reply import (
    EMBED_AGAIN,
    NOT_FLOAT32,
    OF_FLOAT32,
    ContractBroken,
    Decoded,
    decode,
)
from embedwire._http.spans import Cut, cut_out
from embedwire._http.steps import Work
from embedwire._http.vectors import convincing, near
from embedwire._http.verdicts import Verdict
from embedwire._http.wire import Reply, encode
from embedwire._servers.facts import MOST_CHANGES, ModelFacts, ServerFacts, same_model

LONGEST_SAMPLE = 2000  # characters
WORTH_CUTTING = 2**16  # bytes of a reply


class Attempt:
    """One job's body and reply, over its repeats.

    The first request asks for decimal. When its vectors have come, one other asks for base64 and takes a text along
    whose vector is known: only where that comes back the same is base64 believed. A refusal settles it for good, and
    the texts are asked for in decimal at once. Its state is what was asked for last, and what came of it.

    Args:
        job: What to embed.
        name: The model to name.
        trials: The models for which some request tries base64 now; None where it does not pay yet.
        server: What is known of the server; written here: its software.
        life: The present life of the connections; what was known of a model in another one is seen anew.
        secrets: What no message may repeat.

    Attributes:
        exchanged: The reply showed that the server has another model.
        stale: The name that was asked for holds no more.
        unconfirmed: The vectors came in base64, as the user wants, and nothing was ever there to compare them with.
    """

    def __init__(
        self,
        job: Job,
        name: str | None,
        trials: set[ModelFacts] | None,
        server: ServerFacts,
        life: Callable[[ModelFacts], int],
        secrets: Callable[[], list[str]],
    ) -> None:
        self.facts = job.model  # written here
        self.exchanged = self.stale = self.unconfirmed = False
        self._job = job
        self.name = name
        self._trials = trials
        self._server = server
        self._present_life = life
        self._secrets = secrets
        self._life = 0
        self._asked = Asked("float", None)
        self._sample: tuple[str, Matrix] | None = None  # that goes along
        self._tried = False
        self._misread = False
        self._lesson: Lesson | None = None

    def encode(self, last: Verdict | None) -> bytes:
        """The body of the next sending."""
        if last is not None:
            self.outdated(last.fault)
            self.end_trial()
        self.exchanged = self.stale = self.unconfirmed = self._misread = False
        self._life = self._present_life(self.facts)
        self._asked = asked_for(self._job.form, self.facts)
        if self._may_try():
            self._asked = replace(self._asked, encoding="base64")
        texts = self._job.texts if self._sample is None else [*self._job.texts, self._sample[0]]
        return encode(
            texts,
            self._job.form.extra,
            model=self.name,
            encoding=self._asked.encoding,
            dimensions=self._asked.dimensions,
        )

    def again(self, job: Job, name: str | None) -> None:
        """The job is sent once more, and tries nothing."""
        self._job, self.name, self._trials = job, name, None

    def read(self, reply: Reply) -> Work[Decoded]:
        """The vectors of a success; what it shows is noted."""
        cut = (yield from cut_out(reply.body)) if len(reply.body) >= WORTH_CUTTING else None
        facts, form = self.facts, self._job.form
        self._check_server(reply)
        self._check_name()
        decoded = self._decoded(reply, cut)
        self._check_model(decoded.model)
        if self._sample is not None:
            decoded = self._believed(decoded, self._sample[1])
        elif decoded.base64:
            self._check_base64(decoded)
        if form.dimensions is not None and decoded.matrix.shape[1] < form.dimensions:
            fit(decoded.matrix, form.dimensions)  # raises
        facts.width = decoded.matrix.shape[1]
        if facts.sample is None and not decoded.base64:
            text = self._job.texts[0]
            if len(text) <= LONGEST_SAMPLE and decoded.matrix[0].any():
                facts.sample = text, decoded.matrix[0].copy()
        self._server.met(reply.headers)
        self._lesson = None  # it was right
        return decoded

    def outdated(self, fault: Fault) -> bool:
        """Whether it may have been refused for what it asked for; then it is to be asked otherwise, at once."""
        facts, form = self.facts, self._job.form
        lesson, self._lesson = self._lesson, None
        if lesson is not None and lesson.is_wrong(fault):
            lesson.unlearn(facts)
            return False
        if self.exchanged or fault.of_text:
            return False
        if self._misread and form.encoding != "auto":
            return self._asked.encoding == "base64"  # it is asked for no more
        self._lesson = lesson_of(fault, self._asked, form, facts, tried=self._tried)
        if self._lesson is not None:
            self._lesson.learn(facts)
            return True
        # Another request may have found out meanwhile.
        return is_about_asking(fault, self._asked) and self._asked != asked_for(form, facts)

    def end_trial(self) -> None:
        """This request tries base64 no more."""
        if self._sample is not None:
            self._sample = None
            assert self._trials is not None  # noqa: S101 - it was among them
            self._trials.discard(self.facts)

    def _may_try(self) -> bool:
        """Whether this request tries base64, and takes a text along for it."""
        facts, form, trials = self.facts, self._job.form, self._trials
        if self._tried or trials is None or facts in trials or not is_open(form, facts):
            return False
        if not self._job.spare():
            return False
        trials.add(facts)
        self._sample, self._tried = facts.sample, True
        return True

    def _check_server(self, reply: Reply) -> None:
        """Base64 that was believed is not, where the server may be another one by now."""
        reborn, changed = reply.life > self._life, self._server.is_changed(reply.headers)
        if not (reborn or changed):
            return
        self._present_life(self.facts)
        if reborn or self._server.changes < MOST_CHANGES:
            self.facts.reborn()
        else:
            self.facts.distrust()
        self._server.met(reply.headers)
        asked, wanted = self._asked.encoding, self._job.form.encoding
        if self._sample is None and asked == "base64" and wanted == "auto" and not self.facts.only:
            raise ContractBroken(
                "base64 on a new connection, after others were lost, so that it may be another server's"
            )

    def _check_name(self) -> None:
        """Another request may have been told meanwhile that the server serves another model."""
        if self._job.form.model is None and self.name != self.facts.served:
            self.stale = True
            raise ContractBroken("vectors of a model that it does not serve any more", cure=EMBED_AGAIN)

    def _decoded(self, reply: Reply, cut: Cut | None) -> Decoded:
        facts, count = self.facts, len(self._job.texts)
        try:
            return decode(reply.body, count + (self._sample is not None), width=facts.width, cut=cut)
        except ContractBroken as broken:
            if broken.exchanged:
                facts.forget()  # these calls fail; later ones may use the new model
                self.exchanged = True
            elif broken.misread and (broken.position is None or not (facts.base64 or facts.agrees)):
                raise self._no_vectors(str(broken)) from None
            elif broken.position == count:  # the text that went along
                raise ContractBroken(str(broken)) from None
            raise

    def _check_model(self, name: str | None) -> None:
        """Every reply names the same model, whatever its name."""
        facts = self.facts
        if not name:
            return
        before = facts.named
        if not same_model(before, name):
            facts.forget()
            self.exchanged = True
        facts.named = name
        if self.exchanged:
            names = f"{str(name)[:60]!r}, where earlier ones came from {str(before)[:60]!r}"
            names = screened(names, [*self._secrets(), *self._job.texts])
            what = f"vectors of another model: {names}"
            raise ContractBroken(what, exchanged=True, cure=f"These vectors were not used. {EMBED_AGAIN}")

    def _believed(self, decoded: Decoded, known: Matrix) -> Decoded:
        """The vectors without that of the text that went along, where it came back the same."""
        count = len(self._job.texts)
        if decoded.base64 and not near(decoded.matrix[count], known):
            raise self._no_vectors("other vectors in base64 than in decimal")
        self.facts.base64 = decoded.base64
        self.facts.agrees = decoded.base64 or self.facts.agrees
        self.end_trial()
        return replace(decoded, matrix=decoded.matrix[:count])

    def _check_base64(self, decoded: Decoded) -> None:
        """Base64 that was never compared with decimal: whether asked for or not, it must be vectors for certain."""
        facts = self.facts
        if facts.base64 or facts.agrees:
            return
        if facts.agrees is False or not convincing(decoded.matrix):
            raise self._no_vectors(NOT_FLOAT32)
        self.unconfirmed = self._job.form.encoding == "base64"

    def _no_vectors(self, what: str) -> ContractBroken:
        """Base64 that holds something else is refused whole, and not asked for again."""
        self._misread, self.facts.agrees = True, False
        return ContractBroken(what, cure=OF_FLOAT32)
