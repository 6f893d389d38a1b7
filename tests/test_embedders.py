"""What the embedders owe, and that our WordPiece is the library's, number for number."""

from __future__ import annotations

import asyncio
import hashlib
import http.server
import importlib.util
import os
import random
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import AsyncIterator, Coroutine, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simonides_bge_small
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from simonides.embedders import hashing, local, minilm, static
from simonides.embedders.wordpiece import KNOWN_MAX, WordPiece
from simonides.errors import Invalid, Unavailable

SENTENCES = {
    "English": "She couldn't believe it: the naïve café-owner's $5 coffee cost £4.50!",
    "German": "Übergrößenträger aßen am Fußweg süße Äpfel, während es regnete.",
    "French": "L'élève où ça? « Garçon », cria-t-il, à l'hôtel — déjà Noël…",
    "Spanish": "¿Dónde está el niño? ¡Mañana será otro día, señor!",
    "Portuguese": "Não há pão às três da manhã em São João.",
    "Polish": "Zażółć gęślą jaźń, łódź płynie.",
    "Czech": "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Turkish": "İstanbul'da ılık bir gün; Iğdır'a gidiyoruz.",
    "Vietnamese": "Tiếng Việt có nhiều dấu thanh: ngã, hỏi, nặng, sắc.",
    "Greek": "Ο ΣΟΦΟΣ ΟΔΥΣΣΕΥΣ είπε: «Τί ἐστιν ἀλήθεια;»",
    "Russian": "Съешь ещё этих мягких французских булок, да выпей чаю.",
    "Ukrainian": "Ґанок їхнього під'їзду, щоб і їжак.",
    "Hebrew": "בְּרֵאשִׁית בָּרָא אֱלֹהִים אֵת הַשָּׁמַיִם",
    "Arabic": "السَّلامُ عَلَيْكُم، كيف حالك؟ ١٢٣",
    "Hindi": "नमस्ते दुनिया, क्या हाल है? क़लम फ़िल्म।",
    "Bengali": "আমার সোনার বাংলা, আমি তোমায় ভালোবাসি।",
    "Tamil": "வணக்கம் உலகம், எப்படி இருக்கிறீர்கள்?",
    "Thai": "สวัสดีชาวโลก กรุงเทพมหานคร",
    "Chinese": "你好,世界!我喜欢吃北京烤鸭。𠀀𪛖豈",
    "Japanese": "吾輩は猫である。ガギグ パピプ。ﾊﾝｶｸ",
    "Korean": "안녕하세요 세계! 한국어 시험입니다.",
    "Amharic": "ሰላም ለዓለም፡ እንዴት ነህ?",
    "Georgian": "ᲒᲐᲛᲐᲠᲯᲝᲑᲐ გამარჯობა მსოფლიო",
    "Armenian": "Բարեւ աշխարհ, ինչպե՞ս ես։",
}
ODDITIES = [
    *("", " ", "\t\n\r", "\x00", "\ufffd", "a\x00b", "a\u00adb", "a\u200bb", "x\x1cy\x85z\u2028w", "\u00a0", "\ufeffa"),
    *("[SEP]", "a[SEP]b", "[sep]", "[[CLS]]", "[MASK]s [PAD] [UNK]", "x [SE\u0301P]", "[unused5]", "[ SEP ]", "##ing"),
    *("a" * 100, "a" * 101, "é" * 100, "e\u0301" * 101, "é" * 200, "[" * 300, "好" * 300),
    *("ﬁ ǅ ẞ ß İ ı K Å Ω", "\u0301", "a\u0323\u0301", "\u1e9b\u0323", "$+<=>^`|~ ©®™ ½ ² ٣", "U.S.A.'s 3,141.59"),
    *("👩\u200d👩\u200d👧\u200d👦 👍🏽 🇵🇱 1\ufe0f\u20e3 ❤\ufe0f", "I ❤\ufe0f 🐍!!!", "snake_case kebab-case a.b@c.de"),
    *("\u07fd\u0898\u08d4", "\u1734\u166d\U000111c9\U0001171e", "\ufa6e\u2fa1e\U0002b820\U0002b920", "\ue000\u0378"),
]


# ── the tokenizer ──


@pytest.fixture(scope="module")
def ours() -> WordPiece:
    return WordPiece(simonides_bge_small.path("vocab.txt"))


@pytest.fixture(scope="module")
def theirs() -> tokenizers.Tokenizer:
    """What the model's tokenizer.json describes."""
    vocabulary = simonides_bge_small.path("vocab.txt").read_text("utf-8").removesuffix("\n").split("\n")
    model = tokenizers.models.WordPiece(
        {token: number for number, token in enumerate(vocabulary)}, unk_token="[UNK]", max_input_chars_per_word=100
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return tokenizer


def differing(ours: WordPiece, theirs: tokenizers.Tokenizer, texts: list[str]) -> list[str]:
    encoded = theirs.encode_batch_fast(texts, add_special_tokens=False)
    return [ascii(text) for text, right in zip(texts, encoded, strict=True) if ours.encode(text) != right.ids]


def every_character() -> list[str]:
    return [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000 and not _dull(code)]


def _dull(code: int) -> bool:
    """Planes where nothing is assigned or everything is alike: a sample of each is enough."""
    return code > 0x32000 and code % 97 != 0 and not 0xE0000 <= code < 0xE0200


@pytest.mark.parametrize("around", ["{}", "a{}b", "{}\u0301", "x {}ing"])
def test_every_character_of_unicode_is_read_as_the_library_reads_it(ours: Any, theirs: Any, around: str) -> None:
    assert differing(ours, theirs, [around.format(character) for character in every_character()]) == []


def test_words_of_every_block_and_mixtures_of_blocks_are_the_librarys(ours: Any, theirs: Any) -> None:
    chance = random.Random(1)
    assigned = [c for c in map(chr, range(0x20, 0x1FB00)) if unicodedata.category(c) not in ("Cs", "Cn", "Co")]
    blocks = [assigned[start : start + 128] for start in range(0, len(assigned), 128)]
    texts = []
    for block, neighbour in pairwise([*blocks, blocks[0]]):
        for sources in ((block,), (block, neighbour), (block, blocks[0]), tuple(blocks)):
            lengths = [chance.randint(1, 9) for _ in range(20)]
            words = ["".join(chance.choice(chance.choice(sources)) for _ in range(length)) for length in lengths]
            texts.append(chance.choice([" ", "\n", "-", "\u3000"]).join(words))
    assert differing(ours, theirs, texts) == []


def test_sentences_of_many_languages_are_the_librarys(ours: Any, theirs: Any) -> None:
    sentences = list(SENTENCES.values())
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC", "NFKD") for text in sentences]
    shaped = [shape(text) for shape in (str.upper, str.lower, str.title, str.swapcase) for text in sentences]
    assert differing(ours, theirs, [*sentences, *forms, *shaped, " ".join(sentences)]) == []


def test_controls_emoji_long_words_and_special_tokens_are_the_librarys(ours: Any, theirs: Any) -> None:
    texts = [*ODDITIES, *(f"a{left} {right}b" for left in ODDITIES for right in ODDITIES)]
    assert differing(ours, theirs, texts) == []


def test_a_text_of_a_megabyte_is_the_librarys(ours: Any, theirs: Any) -> None:
    mixed = " ".join(SENTENCES.values())
    assert differing(ours, theirs, [mixed * (1_000_000 // len(mixed)), "a" * 1_000_000, "好" * 300_000]) == []


@given(st.text())
def test_any_text_is_the_librarys(ours: WordPiece, theirs: tokenizers.Tokenizer, text: str) -> None:
    assert differing(ours, theirs, [text]) == []


@given(st.lists(st.sampled_from([*SENTENCES.values(), *ODDITIES, "walking ", "the ", "\u0301", "#"])).map("".join))
def test_any_mixture_is_the_librarys(ours: WordPiece, theirs: tokenizers.Tokenizer, text: str) -> None:
    assert differing(ours, theirs, [text]) == []


def test_half_a_surrogate_pair_is_no_character(ours: WordPiece) -> None:
    assert ours.encode("walk\ud800ing") == ours.encode("walking")


def test_the_cache_of_words_is_bounded_and_can_be_emptied() -> None:
    words = WordPiece(simonides_bge_small.path("vocab.txt"))
    words.encode(" ".join(f"w{number}" for number in range(KNOWN_MAX + 1000)))
    assert 0 < len(words._known) <= KNOWN_MAX
    words.clear_cache()
    assert not words._known


# ── the weights ──


@pytest.mark.parametrize("package", ["simonides_bge_small", "simonides_minilm", "simonides_potion"])
def test_the_weights_are_the_bytes_we_know(package: str) -> None:
    weights = pytest.importorskip(package)
    for name, digest in weights.SHA256.items():
        assert hashlib.sha256(weights.path(name).read_bytes()).hexdigest() == digest
    assert weights.MODEL in weights.ATTRIBUTION


@pytest.fixture
def fetch() -> Any:
    """The script packages/fetch.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("fetch", Path(__file__).parents[1] / "packages" / "fetch.py")
    assert spec and spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """A page on loopback that serves what is in tmp_path/hub."""
    (tmp_path / "hub/resolve/main/onnx").mkdir(parents=True)
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(tmp_path / "hub")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def small(fetch: Any, hub: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model of one file, to be had from a folder or the page."""
    monkeypatch.setattr(fetch, "SOURCES", {name: fetch.SOURCES[name] for name in ("SIMONIDES_MODEL_SOURCE", "hub")})
    digest = {"model": hashlib.sha256(b"weights").hexdigest()}
    make = lambda raw, made: (made / "model").write_bytes((raw / "model").read_bytes())  # noqa: E731
    paths = {"model": "onnx/model"}
    return fetch.Model(
        files=digest, products=digest, make=make, distribution="d==1", inside="d", hub=hub, hub_paths=paths
    )


def test_each_package_knows_the_digests_that_its_weights_are_fetched_by(fetch: Any) -> None:
    for model, package in (("bge-small", "bge_small"), ("minilm", "minilm"), ("potion", "potion")):
        source = Path(__file__).parents[1] / f"packages/simonides-{model}/src/simonides_{package}/__init__.py"
        facts: dict[str, Any] = {}
        exec(source.read_text("utf-8"), facts)
        assert facts["SHA256"] == fetch.MODELS[model].products


def test_weights_come_from_the_folder_first(
    fetch: Any, small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").write_bytes(b"weights")
    monkeypatch.setenv("SIMONIDES_MODEL_SOURCE", str(tmp_path))
    fetch.fetch(small, tmp_path / "package")
    assert (tmp_path / "package/model").read_bytes() == b"weights"
    assert "from SIMONIDES_MODEL_SOURCE" in capsys.readouterr().out
    fetch.fetch(small, tmp_path / "package")
    assert "complete" in capsys.readouterr().out


def test_other_bytes_are_refused_and_the_next_source_is_asked(
    fetch: Any, small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").write_bytes(b"something else")
    (tmp_path / "hub/resolve/main/onnx/model").write_bytes(b"weights")
    monkeypatch.setenv("SIMONIDES_MODEL_SOURCE", str(tmp_path))
    fetch.fetch(small, tmp_path / "package")
    assert (tmp_path / "package/model").read_bytes() == b"weights"
    assert "from hub" in capsys.readouterr().out


def test_without_a_source_it_says_what_was_tried_and_what_to_do(
    fetch: Any, small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIMONIDES_MODEL_SOURCE", raising=False)
    with pytest.raises(LookupError, match=r"(?s)not set.*404.*SIMONIDES_MODEL_SOURCE=FOLDER.*" + small.files["model"]):
        fetch.fetch(small, tmp_path / "package")
    assert not (tmp_path / "package/model").exists()


# ── what every embedder owes ──

NEAR = [
    ("The cat sat on the mat.", "A cat was sitting on a mat.", "Quarterly revenue rose by nine percent."),
    ("Marta moved to Lisbon in June.", "In June, Marta moved house to Lisbon.", "The server ran out of memory."),
    ("He is allergic to peanuts.", "Peanuts: he has an allergy, he is allergic.", "We walked along the river at dawn."),
]
TURNS = [*(text for three in NEAR for text in three), *SENTENCES.values()]


@pytest.fixture(params=["hashing:", "hashing:?dimension=64", "local:", "local:?threads=1", "minilm:", "static:"])
async def embedder(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    module = {"hashing": hashing, "local": local, "minilm": minilm, "static": static}[request.param.partition(":")[0]]
    if module is minilm:
        pytest.importorskip("simonides_minilm")
    if module is static:
        pytest.importorskip("simonides_potion")
    opened = module.open(request.param)
    yield opened
    await opened.close()


async def test_no_texts_are_no_vectors(embedder: Any) -> None:
    assert (await embedder.embed([])).shape == (0, embedder.dimension)


async def test_every_text_has_a_vector_of_unit_length_whatever_it_says(embedder: Any) -> None:
    texts = [*TURNS, *ODDITIES, "word " * 3000, "walk\ud800ing"]
    vectors = await embedder.embed(texts)
    assert vectors.shape == (len(texts), embedder.dimension)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


async def test_vectors_are_in_the_order_of_their_texts_and_do_not_depend_on_company(embedder: Any) -> None:
    # Exactly: the model rounds by the whole of what it is given, so texts are given to it one by one.
    together = await embedder.embed(TURNS)
    embedder.clear_cache()
    reverse = await embedder.embed([*reversed(TURNS), *TURNS])
    embedder.clear_cache()
    single = np.concatenate([await embedder.embed([text], query=True) for text in TURNS])
    np.testing.assert_array_equal(together, single)
    np.testing.assert_array_equal(reverse, np.concatenate([together[::-1], together]))


async def test_what_is_alike_is_nearer_than_what_is_not(embedder: Any) -> None:
    for text, like, unlike in NEAR:
        one, two, three = await embedder.embed([text, like, unlike])
        assert one @ two > one @ three


async def test_many_callers_at_once_get_their_own_vectors(embedder: Any) -> None:
    right = dict(zip(TURNS, await embedder.embed(TURNS), strict=True))
    embedder.clear_cache()
    shares = [random.Random(seed).sample(TURNS, 12) for seed in range(20)]
    for share, vectors in zip(shares, await asyncio.gather(*map(embedder.embed, shares)), strict=True):
        np.testing.assert_array_equal(vectors, np.stack([right[text] for text in share]))


async def test_it_serves_several_event_loops_in_several_threads(embedder: Any) -> None:
    right = await embedder.embed(TURNS)
    embedder.clear_cache()
    everywhere = await asyncio.gather(*(asyncio.to_thread(asyncio.run, embedder.embed(TURNS)) for _ in range(4)))
    for vectors in everywhere:
        np.testing.assert_array_equal(vectors, right)


async def test_the_event_loop_goes_on_while_it_works(embedder: Any) -> None:
    assert await turns_of_the_loop_while(embedder.embed(TURNS)) > 0  # worked out in the loop, there would be none


async def turns_of_the_loop_while(embedding: Coroutine[Any, Any, Any]) -> int:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    turning = asyncio.create_task(turn())
    await embedding
    turning.cancel()
    return turns


async def test_what_is_longer_than_max_tokens_is_cut(embedder: Any) -> None:
    exact = " ".join(["walk"] * embedder.max_tokens)
    assert embedder.tokens(exact) == embedder.max_tokens
    whole, cut = await embedder.embed([exact, exact + " elephant" * 50])
    np.testing.assert_array_equal(whole, cut)


async def test_what_comes_back_is_the_callers_to_change(embedder: Any) -> None:
    first = await embedder.embed(TURNS[:2])
    kept = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(await embedder.embed(TURNS[:2]), kept)


async def test_an_unknown_option_is_refused(embedder: Any) -> None:
    for url in ("x:?size=3", "x:?dimension=0", "x:?threads=-1", "x:?cache=many"):
        with pytest.raises(Invalid, match="not an option"):
            type(embedder)(url)


# ── the hashing embedder ──


async def test_hashing_is_the_same_on_every_machine() -> None:
    (vector,) = await hashing.open("hashing:?dimension=64").embed(["Simonides of Ceos"])
    assert hashlib.sha256(np.round(vector * 1000).astype("<i4").tobytes()).hexdigest()[:16] == "913e77e7f864470f"


async def test_inflections_are_near() -> None:
    one, inflected, other = await hashing.open("hashing:").embed(["walking", "walked", "banana"])
    assert one @ inflected > 0.1 > one @ other


# ── the local model ──


async def test_a_text_is_embedded_once_until_the_cache_is_cleared() -> None:
    embedder = local.open("local:?cache=2")
    await embedder.embed(["one", "two", "one", "three"])
    assert len(embedder._recent._encoded) == 2
    assert all(isinstance(key, bytes) and len(key) == 16 for key in embedder._recent._encoded)
    assert embedder._words and embedder._words._known
    embedder.clear_cache()
    assert not embedder._recent._encoded and not embedder._words._known
    await embedder.close()


async def test_the_event_loop_goes_on_while_the_model_runs() -> None:
    embedder = local.open("local:")
    await embedder.embed(["warm"])
    assert await turns_of_the_loop_while(embedder.embed(["many words " * 500])) > 20  # one run, and two hand-overs
    await embedder.close()


def test_what_is_done_for_a_text_keeps_no_other_processor_busy() -> None:
    rows = np.random.default_rng(1).random((510, 384), np.float32)
    local._projected(rows)
    time.sleep(0.2)
    own, everybodys = time.thread_time(), time.process_time()
    for _ in range(20):
        local._projected(rows)
        time.sleep(0.03)  # threads that were woken would spin meanwhile
    own, everybodys = time.thread_time() - own, time.process_time() - everybodys
    assert everybodys < own + 0.1


async def test_a_text_erased_while_it_is_embedded_does_not_stay_in_the_cache() -> None:
    embedder = local.open("local:")
    await embedder.embed(["warm"])
    working = asyncio.create_task(embedder.embed(["a secret " * 200]))
    await asyncio.sleep(0)  # it has begun
    embedder.clear_cache()
    await working
    assert not embedder._recent._encoded
    await embedder.close()


@pytest.mark.parametrize("module", ["onnxruntime", "simonides_bge_small"])
async def test_what_is_not_installed_is_said_with_the_command_that_installs_it(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    embedder = local.open("local:")
    with pytest.raises(Unavailable, match=rf"{module}.*pip install 'simonides\[local\]'.*make install"):
        await embedder.embed(["hello"])
    await embedder.close()


async def test_a_package_without_its_weights_is_said_too() -> None:
    class Bare(local.LocalEmbedder):
        graph = "absent.onnx"

    embedder = Bare()
    with pytest.raises(Unavailable, match=r"absent\.onnx is not there.*make install"):
        await embedder.embed(["hello"])
    await embedder.close()


@pytest.mark.parametrize("scheme", ["minilm", "static"])
async def test_the_optional_models_name_their_own_extra(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, {"minilm": "simonides_minilm", "static": "simonides_potion"}[scheme], None)
    embedder = {"minilm": minilm, "static": static}[scheme].open(f"{scheme}:")
    with pytest.raises(Unavailable, match=rf"simonides\[{scheme}\]"):
        await embedder.embed(["hello"])
    with pytest.raises(Unavailable, match=rf"simonides\[{scheme}\]"):
        embedder.tokens("hello")
    await embedder.close()


def test_it_is_loaded_on_first_use_and_prints_nothing() -> None:
    script = """
import asyncio, sys
from simonides.embedders import local
embedder = local.open("local:")
assert "onnxruntime" not in sys.modules and "simonides_bge_small" not in sys.modules
assert embedder.tokens("Hello, world!") == 4 and "onnxruntime" not in sys.modules
asyncio.run(embedder.embed(["Hello, world!"]))
asyncio.run(embedder.close())
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_the_runtime_of_the_model_keeps_no_book_on_its_user(tmp_path: Path) -> None:
    """onnxruntime makes an id of the machine and a file of events to send, in the user's folder, unless it is told."""
    places = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "TMPDIR")}
    given = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    script = "import asyncio\nfrom simonides.embedders import local\nasyncio.run(local.open('local:').embed(['hello']))"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120, env={**given, **places})
    assert not list(tmp_path.rglob("*"))
