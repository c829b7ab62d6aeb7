"""The client against pairs recorded from a real daemon, and the fake daemon against the same pairs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recipeline.errors import RecipeError
from recipeline_tsfm import payloads
from recipeline_tsfm.client import ALIASES, TollamaClient
from recipeline_tsfm.failures import UpstreamError
from recipeline_tsfm.fake_tollama import FakeTollama
from tsfm_service import question, serving

PAIRS = {path.stem: json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "pairs").glob("*.json"))}
REJECTED = "upstream_rejected:400"
REASONS = {
    "auth_missing_token": "upstream_unauthorized", "auth_wrong_token": "upstream_unauthorized",
    "bad_future_without_past": REJECTED, "bad_horizon_zero": REJECTED, "bad_json": REJECTED, "bad_length_mismatch": REJECTED,
    "bad_quantile_unsorted": REJECTED, "bad_target_null": REJECTED, "fault_bad_request": REJECTED,
    "bad_legacy_endpoint": "upstream_route_missing", "bad_not_installed_registry_model": "model_not_installed",
    "bad_unknown_model": "model_not_installed", "fault_runner_error": "upstream_5xx:502", "ratelimit_3": "upstream_rate_limited",
    "pull_needs_licence": "upstream_license_not_accepted", "ok_api_forecast_stream_default": "invalid_payload:json",
}  # fmt: skip


def text_of(body):
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def replaying(pair):
    """A daemon that gives the recorded answer to every request."""
    response = pair["response"]
    return FakeTollama(replay=lambda method, path, raw: (response["status"], response["content_type"], text_of(response["body"])))


def asked(body):
    """The series of a recorded request, as the client takes them."""
    made = []
    for one in body["series"]:
        covariates = [{name: np.array(v) for name, v in (one.get(key) or {}).items()} for key in ("past_covariates", "future_covariates")]
        made.append(
            payloads.Series(one["freq"], np.datetime64(one["timestamps"][-1][:-1]), np.array(one["target"], dtype=float), *covariates)
        )
    return made


def forecasts(name):
    """What the client and the checks make of a recorded answer; ids as the client would have given them."""
    pair = json.loads(json.dumps(PAIRS[name]))
    body = pair["request"]["body"]
    for place, one in enumerate(pair["response"]["body"]["forecasts"]):
        one["id"] = str(place)

    async def ask():
        async with replaying(pair) as fake:
            client = TollamaClient(fake.url, aliases={"chronos": "chronos"})
            try:
                reply = await client.forecast(body["model"], body["horizon"], body["quantiles"], asked(body), deadline=8, attempt=6)
            finally:
                await client.aclose()
            return payloads.read(reply.payload, body["model"], len(body["series"]), body["horizon"], body["quantiles"], strict=True)

    return pair, asyncio.run(ask())


@pytest.mark.parametrize("name", REASONS)
def test_a_recorded_error_is_what_it_says(name):
    """Every recorded refusal has its reason; retries are for the two that may pass."""
    pair = PAIRS[name]

    async def ask():
        async with replaying(pair) as fake:
            client = TollamaClient(fake.url)
            try:
                with pytest.raises(UpstreamError) as error:
                    await client.request(pair["request"]["method"], pair["request"]["path"], text_of(pair["request"]["body"]), deadline=8)
            finally:
                await client.aclose()
            return error.value

    error = asyncio.run(ask())
    assert error.reason == REASONS[name]
    assert error.retryable == (name in ("fault_runner_error", "ratelimit_3"))
    assert error.counts == (name in ("fault_runner_error", "ok_api_forecast_stream_default"))
    assert error.named == ((0,) if name in ("bad_length_mismatch", "bad_target_null") else ())
    assert "0.41" not in str(error)  # the daemon repeats the request; we do not


@pytest.mark.parametrize(
    "name",
    [
        "ok_quantiles",
        "ok_quantiles_five",
        "ok_two_series",
        "ok_covariates_known_future",
        "ok_params_extra_option",
        "ok_api_forecast_nostream",
    ],
)
def test_a_recorded_forecast_is_read_number_by_number(name):
    """Every quantile of every series, in the order of the levels."""
    pair, read = forecasts(name)
    for told, one in zip(read, pair["response"]["body"]["forecasts"], strict=True):
        np.testing.assert_array_equal(told.path.T, list(one["quantiles"].values()))
        assert told.mean is None


def test_recorded_answers_without_quantiles_give_the_mean():
    """A point-only family, and a question that asked for none."""
    pair, (read,) = forecasts("fault_point_only")
    assert read.path is None
    np.testing.assert_array_equal(read.mean, pair["response"]["body"]["forecasts"][0]["mean"])


def test_recorded_warnings_come_along():
    """Covariates that a model cannot use."""
    _, (read,) = forecasts("ok_covariates_dropped_warning")
    assert len(read.warnings) == 1
    assert read.warnings[0].startswith("upstream:ignoring unsupported covariate: model 'chronos'")


@pytest.mark.parametrize("name", ["ok_quantiles", "ok_two_series", "ok_covariates_known_future", "ok_params_extra_option"])
def test_what_we_send_is_what_the_real_daemon_took(name):
    """The same JSON but for the ids and the digits after the twelfth."""
    body = PAIRS[name]["request"]["body"]
    sent = json.loads(payloads.question(body["model"], body["horizon"], body["quantiles"], asked(body), body.get("options", {})))
    wanted = {"options": {}, **body, "series": [{**one, "id": str(place)} for place, one in enumerate(body["series"])]}
    for one in wanted["series"]:
        one["target"] = [float(f"{value:.12g}") for value in one["target"]]
    assert sent == wanted


def test_the_seeds_question_through_the_whole_service_with_a_recorded_answer():
    """The daemon's mock family answers with intervals of no width; they are widened, and that is said."""
    pair = json.loads(json.dumps(PAIRS["ok_mock_seed_model"]))
    for one in pair["response"]["body"]["forecasts"]:
        one["id"] = "0"
        for key, row in one["quantiles"].items():
            one["quantiles"][key] = [np.log(y / (1 - y)) for y in row]

    async def ask():
        async with serving(config={"aliases": {"chronos": "chronos"}}, fake={"replay": replaying(pair).replay}) as (service, _):
            return await service.forecast(question())

    answer = asyncio.run(ask())
    np.testing.assert_allclose(answer.path, np.tile([0.42, 0.43, 0.44], (12, 1)), rtol=1e-12)
    assert answer.meta.warnings == ("interval_widened x12",)


@pytest.mark.parametrize("name", [name for name, pair in PAIRS.items() if pair["request"]["path"] == "/v1/forecast"])
def test_the_fake_answers_as_the_real_daemon_did(name):
    """Same status, same shape of the body; a fake that is kinder than the daemon would prove nothing."""
    pair = PAIRS[name]
    token = "right" if name.startswith("auth") else None
    models = ["stub-ok", "stub-point-only", "chronos", "point-only"]
    faults = {"fault_bad_request": ["400"], "fault_runner_error": ["502"], "ratelimit_3": ["429"], "fault_point_only": ["no_quantiles"]}

    async def ask():
        fake = FakeTollama(faults.get(name, ()), token=token, models=[*models, "stub-bad-request", "stub-runner-error"])
        async with fake:
            reader, writer = await asyncio.open_connection(fake.host, fake.port)
            body = text_of(pair["request"]["body"])
            headers = "".join(f"{key}: {value}\r\n" for key, value in pair["request"]["headers"].items())
            writer.write(f"POST /v1/forecast HTTP/1.1\r\nhost: x\r\n{headers}content-length: {len(body)}\r\n\r\n".encode() + body)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            content = json.loads(await reader.readexactly(length))
            writer.close()
            return int(head.split()[1]), content

    status, content = asyncio.run(ask())
    recorded = pair["response"]
    assert status == recorded["status"]
    if status == 200:
        assert content.keys() <= recorded["body"].keys()
        for ours, theirs in zip(content["forecasts"], recorded["body"]["forecasts"], strict=True):
            assert ours.keys() == theirs.keys()
            assert len(ours["mean"]) == len(theirs["mean"])
            assert (ours["quantiles"] or {}).keys() == (theirs["quantiles"] or {}).keys()
    else:
        assert type(content["detail"]) is type(recorded["body"]["detail"])
        if isinstance(content["detail"], list):
            assert [item["loc"] for item in content["detail"]] == [item["loc"] for item in recorded["body"]["detail"]][
                : len(content["detail"])
            ]


def test_every_other_route_is_spoken():
    """tags, ps, show, models, health, version; a licence that must be accepted is not accepted for anybody."""

    async def ask():
        async with FakeTollama(models=["chronos2"]) as fake:
            client = TollamaClient(fake.url)
            try:
                assert [item["model"] for item in await client.tags()] == ["chronos2"]
                assert await client.loaded() == {"chronos2"}
                assert await client.licence("chronos") == "apache-2.0"
                assert (await client.models())["data"] == [{"id": "chronos2"}]
                assert (await client.health()) == {"status": "ok"}
                assert await client.version() == "0.1.0"
                with pytest.raises(UpstreamError, match="license_not_accepted"):
                    await client.pull("moirai")
                assert (await client.pull("timesfm")) == {"status": "success"}
                with pytest.raises(UpstreamError, match="model_not_installed"):
                    await client.show("lag-llama")
            finally:
                await client.aclose()

    asyncio.run(ask())


def test_recorded_tags_and_show_are_understood():
    """The licence's type, and the names of what is installed."""

    async def ask(name, what):
        async with replaying(PAIRS[name]) as fake:
            client = TollamaClient(fake.url)
            try:
                return await what(client)
            finally:
                await client.aclose()

    assert asyncio.run(ask("models_show", lambda client: client.licence("stub-ok"))) == "apache-2.0"
    assert "stub-ok" in {item["model"] for item in asyncio.run(ask("models_tags", lambda client: client.tags()))}
    assert asyncio.run(ask("sys_version", lambda client: client.version())) == "0.1.0"


def test_aliases_are_names_of_models_and_end_somewhere():
    """Aliases of aliases, circles, and names that nobody knows."""
    client = TollamaClient(aliases={"mine": "chronos", "a": "b", "b": "a", "timesfm": "timesfm"})
    assert client.resolve("mine") == "chronos2"
    assert client.resolve("a") in ("a", "b")
    assert client.resolve("timesfm") == "timesfm"
    assert client.resolve("unheard-of") == "unheard-of"
    assert all(target not in ALIASES for target in ALIASES.values())


@pytest.mark.parametrize(
    "url", ["", "ftp://x", "http://", "http://user:pw@host", "http://h:99999", "http://h/?a=b", "http://h/#x", "[", "http://[::1"]
)
def test_an_address_that_is_none_is_refused_and_not_repeated(url):
    """It may hold a password."""
    with pytest.raises(RecipeError) as error:
        TollamaClient(url)
    assert "pw" not in str(error.value)
    assert TollamaClient("http://[::1]:80/base/").base_url == "http://[::1]:80/base"


def test_a_token_that_would_break_the_header_is_refused_and_not_repeated():
    """A newline would begin another header."""
    for token in ("a\r\nx-evil: 1", "ü-SECRET", "a b-SECRET"):
        with pytest.raises(RecipeError) as error:
            TollamaClient(token=token)
        assert "SECRET" not in str(error.value)
        assert "evil" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "level"),
    [("0.1", 0.1), ("0.10", 0.1), ("q10", 0.1), ("q0.1", 0.1), ("P90", 0.9), ("90%", 0.9), ("quantile_0.5", 0.5), ("q_05", 0.05),
     ("97.5", 0.975), ("mean", None), ("", None), ("x" * 30, None)],
)  # fmt: skip
def test_levels_are_told_by_their_value(key, level):
    """However a family spells them."""
    assert payloads._level(key) == (pytest.approx(level) if level is not None else None)


def test_the_fake_runs_as_a_program_and_prints_where():
    """`python -m recipeline_tsfm.fake_tollama`: an address on the first line, faults as asked, quick to start: no numpy."""
    command = [sys.executable, "-m", "recipeline_tsfm.fake_tollama", "--port", "0", "--faults", "502:1", "--latency-ms", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().strip()

            async def ask():
                client = TollamaClient(url)
                try:
                    one = payloads.Series("5min", np.datetime64("2026-02-20T12:00:00"), np.arange(40.0), {}, {})
                    return (await client.forecast("chronos", 3, (0.5,), [one], deadline=20, attempt=10)).attempts
                finally:
                    await client.aclose()

            assert asyncio.run(ask()) == 2
        finally:
            process.terminate()
    code = "import sys, recipeline_tsfm.fake_tollama; print(sorted({'numpy', 'httpx2', 'pandas', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
