"""The gRPC face: the committed stubs say what repcenter.proto says, and field numbers never move."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import google.protobuf
import pytest
from google.protobuf import descriptor_pb2

from contracts import scores
from contracts.rpc.v1 import repcenter_pb2, repcenter_pb2_grpc

PROTO = Path(repcenter_pb2.__file__).with_name("repcenter.proto")
KIND = descriptor_pb2.FieldDescriptorProto
SCALARS = {"string": KIND.TYPE_STRING, "bytes": KIND.TYPE_BYTES, "int64": KIND.TYPE_INT64}
SCALARS |= {"uint64": KIND.TYPE_UINT64, "uint32": KIND.TYPE_UINT32, "float": KIND.TYPE_FLOAT}
SCALARS |= {"double": KIND.TYPE_DOUBLE, "bool": KIND.TYPE_BOOL}
NAMES = {number: name for name, number in SCALARS.items()}

# What is on the wire for ever. A change here is a new package, repcenter.v2.
MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Behaviour": {"item_id": (1, "string"), "timestamp_ms": (2, "optional int64")},
    "ScoreRequest": {
        "scene": (1, "string"),
        "user_id": (2, "optional string"),
        "behaviours": (3, "repeated Behaviour"),
        "candidates": (4, "repeated string"),
        "generation": (5, "optional string"),
        "user": (6, "map<string, Attribute>"),
        "context": (7, "map<string, Attribute>"),
        "timestamp_ms": (8, "optional int64"),
        "query": (9, "map<string, Vector>"),
        "request_id": (10, "optional string"),
        "top_k": (11, "optional uint32"),
        "missing": (12, "MissingPolicy"),
        "default_score": (13, "optional float"),
        "explain": (14, "uint32"),
        "priority": (18, "RequestPriority"),
        "query_text": (15, "string"),
        "query_image": (16, "bytes"),
        "contents": (17, "map<string, Item>"),
    },
    "Vector": {"values": (1, "repeated float")},
    "Weighed": {"item_id": (1, "string"), "age": (2, "uint32"), "value": (3, "double")},
    "WeighedBehaviours": {"values": (1, "repeated Weighed")},
    "Distribution": {
        "regions": (1, "uint32"),
        "intervals": (2, "uint32"),
        "shares": (3, "repeated double"),
    },
    "Explanation": {
        "item_id": (1, "string"),
        "position": (2, "uint32"),
        "score": (3, "double"),
        "logit": (4, "double"),
        "contributions": (5, "map<string, double>"),
        "behaviours": (6, "map<string, WeighedBehaviours>"),
        "distributions": (7, "map<string, Distribution>"),
    },
    "Completeness": {
        "behaviours_asked": (1, "uint32"),
        "behaviours_found": (2, "uint32"),
        "candidates_asked": (3, "uint32"),
        "candidates_found": (4, "uint32"),
        "columns_asked": (5, "uint32"),
        "columns_found": (6, "uint32"),
        "encoded": (7, "uint32"),
        "encode_failed": (8, "uint32"),
        "behaviours_source": (20, "BehaviourSource"),
        "stale": (21, "bool"),
    },
    "Timings": {
        "queue_ms": (1, "double"),
        "fetch_ms": (2, "double"),
        "assemble_ms": (3, "double"),
        "run_ms": (4, "double"),
        "total_ms": (5, "double"),
        "encode_ms": (6, "double"),
    },
    "ScoreResponse": {
        "scene": (1, "string"),
        "generation": (2, "string"),
        "scores": (3, "repeated float"),
        "statuses": (4, "repeated CandidateStatus"),
        "completeness": (5, "Completeness"),
        "timings": (6, "Timings"),
        "request_id": (7, "string"),
        "top": (8, "repeated TopItem"),
        "explanations": (9, "repeated Explanation"),
    },
    "TopItem": {"item_id": (1, "string"), "position": (2, "uint32"), "score": (3, "float")},
    "ScoreManyRequest": {"requests": (1, "repeated ScoreRequest")},
    "ScoreOutcome": {"answer": (1, "oneof ScoreResponse"), "refusal": (2, "oneof Refusal")},
    "ScoreManyResponse": {"outcomes": (1, "repeated ScoreOutcome")},
    "ListGenerationsRequest": {},
    "Scene": {"name": (1, "string"), "generation": (2, "string"), "revision": (3, "uint64")},
    "GenerationInfo": {
        "id": (1, "string"),
        "created_ms": (2, "int64"),
        "space_id": (3, "string"),
        "encoder_digest": (4, "string"),
        "ranker_digest": (5, "string"),
    },
    "ListGenerationsResponse": {
        "scenes": (1, "repeated Scene"),
        "generations": (2, "repeated GenerationInfo"),
    },
    "TokenList": {"values": (1, "repeated string")},
    "Attribute": {
        "text": (1, "oneof string"),
        "number": (2, "oneof double"),
        "tokens": (3, "oneof TokenList"),
    },
    "Item": {
        "item_id": (1, "string"),
        "text": (2, "map<string, string>"),
        "attributes": (3, "map<string, Attribute>"),
        "image": (4, "optional bytes"),
        "image_url": (5, "optional string"),
    },
    "PushRequest": {"item": (1, "Item"), "idempotency_key": (2, "optional string")},
    "DeleteRequest": {"item_id": (1, "string"), "idempotency_key": (2, "optional string")},
    "PushReceipt": {"item_id": (1, "string"), "sequence": (2, "uint64"), "replayed": (3, "bool")},
    "PushManyRequest": {"push": (1, "oneof PushRequest"), "delete": (2, "oneof DeleteRequest")},
    "Refusal": {
        "code": (1, "string"),
        "detail": (2, "string"),
        "retry_after_ms": (3, "optional int64"),
    },
    "PushOutcome": {
        "index": (1, "uint64"),
        "item_id": (2, "string"),
        "receipt": (3, "oneof PushReceipt"),
        "refusal": (4, "oneof Refusal"),
    },
    "EncodeRequest": {"items": (1, "repeated Item"), "records": (2, "bool")},
    "EncodedItem": {
        "vectors": (1, "map<string, Vector>"),
        "record": (2, "bytes"),
        "flagged": (3, "repeated string"),
        "refusal": (4, "Refusal"),
    },
    "EncodeResponse": {
        "space_id": (1, "string"),
        "encoder_digest": (2, "string"),
        "items": (3, "repeated EncodedItem"),
    },
    "GetStatusRequest": {"item_id": (1, "string")},
    "ItemStatus": {
        "item_id": (1, "string"),
        "state": (2, "ItemState"),
        "sequence": (3, "uint64"),
        "reason": (4, "string"),
        "updated_ms": (5, "int64"),
    },
    "Event": {
        "user_id": (1, "string"),
        "item_id": (2, "string"),
        "timestamp_ms": (3, "optional int64"),
        "event_id": (4, "optional string"),
        "kind": (5, "optional string"),
    },
    "AppendEventsRequest": {"events": (1, "repeated Event")},
    "AppendEventsReceipt": {
        "appended": (1, "uint32"),
        "duplicates": (2, "uint32"),
        "too_old": (3, "uint32"),
        "forgotten": (4, "uint32"),
        "ignored": (5, "uint32"),
    },
    "ForgetUserRequest": {"user_id": (1, "string")},
    "ForgetUserReceipt": {
        "user_id": (1, "string"),
        "behaviours": (2, "uint32"),
        "forgotten_ms": (3, "int64"),
    },
}
ENUMS = {
    "CandidateStatus": ["UNSPECIFIED", "OK", "COLD", "MISSING", "DEFAULT", "ENCODED"],
    "RequestPriority": ["UNSPECIFIED", "LOW", "NORMAL", "HIGH"],
    "MissingPolicy": ["UNSPECIFIED", "MASK", "FAIL", "ENCODE"],
    "BehaviourSource": ["UNSPECIFIED", "REQUEST", "STORED"],
    "ItemState": ["UNSPECIFIED", "QUEUED", "ENCODING", "SCOREABLE", "DELETED", "DEAD"],
}
SERVICES = {
    "Scorer": {
        "Score": ("ScoreRequest", "ScoreResponse"),
        "ScoreMany": ("ScoreManyRequest", "ScoreManyResponse"),
        "ListGenerations": ("ListGenerationsRequest", "ListGenerationsResponse"),
    },
    "Items": {
        "Push": ("PushRequest", "PushReceipt"),
        "Delete": ("DeleteRequest", "PushReceipt"),
        "GetStatus": ("GetStatusRequest", "ItemStatus"),
        "PushMany": ("PushManyRequest", "PushOutcome"),
    },
    "Encoder": {"Encode": ("EncodeRequest", "EncodeResponse")},
    "Events": {
        "Append": ("AppendEventsRequest", "AppendEventsReceipt"),
        "Forget": ("ForgetUserRequest", "ForgetUserReceipt"),
    },
}


_CALL = r"rpc (\w+)\((?:stream )?(\w+)\) returns \((?:stream )?(\w+)\);"


def stub_file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    repcenter_pb2.DESCRIPTOR.CopyToProto(file)
    return file


def type_name(field: descriptor_pb2.FieldDescriptorProto) -> str:
    return NAMES[field.type] if field.type in NAMES else field.type_name.rsplit(".", 1)[-1]


def described(
    field: descriptor_pb2.FieldDescriptorProto, message: descriptor_pb2.DescriptorProto
) -> tuple[int, str]:
    entries = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
    kind = type_name(field)
    if kind in entries:
        key, value = (type_name(f) for f in entries[kind].field)
        return field.number, f"map<{key}, {value}>"
    if field.label == KIND.LABEL_REPEATED:
        return field.number, f"repeated {kind}"
    if field.proto3_optional:
        return field.number, f"optional {kind}"
    return field.number, f"oneof {kind}" if field.HasField("oneof_index") else kind


def test_stubs_have_these_fields_and_numbers() -> None:
    file = stub_file()
    assert file.package == "repcenter.v1"
    assert {m.name: {f.name: described(f, m) for f in m.field} for m in file.message_type} == MESSAGES


def test_stubs_have_these_enums() -> None:
    for enum in stub_file().enum_type:
        prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper()
        expected = [(f"{prefix}_{name}", number) for number, name in enumerate(ENUMS[enum.name])]
        assert [(v.name, v.number) for v in enum.value] == expected
    assert {e.name for e in stub_file().enum_type} == set(ENUMS)


def test_stubs_have_these_services() -> None:
    found = {
        s.name: {
            m.name: (m.input_type.rsplit(".", 1)[-1], m.output_type.rsplit(".", 1)[-1]) for m in s.method
        }
        for s in stub_file().service
    }
    assert found == SERVICES


def proto_text() -> str:
    return re.sub(r"//[^\n]*", "", PROTO.read_text())


def blocks(keyword: str) -> dict[str, str]:
    """The text inside each `keyword Name { … }` at the top level, braces within included."""
    out = {}
    pattern = rf"^{keyword} (\w+) \{{(?:\}}|\n(.*?)^\}})$"
    for match in re.finditer(pattern, proto_text(), re.MULTILINE | re.DOTALL):
        out[match[1]] = match[2] or ""
    return out


def test_the_proto_file_has_the_same_fields_and_numbers() -> None:
    found: dict[str, dict[str, tuple[int, str]]] = {}
    for name, body in blocks("message").items():
        fields: dict[str, tuple[int, str]] = {}
        inside = ""
        for line in (part.strip() for part in re.split(r"[;\n]", body)):
            if line.startswith("oneof "):
                inside = "oneof "
            elif line == "}":
                inside = ""
            elif match := re.fullmatch(r"(.+?) (\w+) = (\d+)", line):
                fields[match[2]] = (int(match[3]), inside + match[1])
        found[name] = fields
    assert found == MESSAGES


def test_the_proto_file_has_the_same_enums_and_services() -> None:
    enums = {n: re.findall(r"(\w+) = (\d+);", body) for n, body in blocks("enum").items()}
    assert {n: [v.split("_", 2)[2] for v, _ in values] for n, values in enums.items()} == ENUMS
    assert all([int(k) for _, k in values] == list(range(len(values))) for values in enums.values())
    calls = {n: {m: (i, o) for m, i, o in re.findall(_CALL, body)} for n, body in blocks("service").items()}
    assert calls == SERVICES


def test_stubs_equal_freshly_generated_ones(tmp_path: Path) -> None:
    protoc: Any = pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools is not installed")
    out = tmp_path / "all.pb"
    root = PROTO.parents[3]
    command = ["protoc", f"-I{root}", f"--descriptor_set_out={out}", str(PROTO.relative_to(root))]
    assert protoc.main(command) == 0
    fresh = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0]
    fresh.ClearField("name")
    committed = stub_file()
    committed.ClearField("name")
    assert fresh == committed


def test_stubs_were_made_for_protobuf_6_and_so_import_on_6_and_7() -> None:
    made = re.search(
        r"# Protobuf Python Version: (\d+)\.(\d+)\.(\d+)", Path(repcenter_pb2.__file__).read_text()
    )
    assert made is not None
    assert made[1] == "6"
    assert tuple(map(int, made.groups())) <= (6, 33, 6)
    assert google.protobuf.__version__.split(".")[0] in ("6", "7")
    assert "GRPC_GENERATED_VERSION = '1.81.1'" in inspect.getsource(repcenter_pb2_grpc)


@pytest.mark.parametrize("implementation", ["upb", "python"])
def test_stubs_import_under_both_implementations(implementation: str) -> None:
    code = (
        "from google.protobuf.internal import api_implementation as a\n"
        "from contracts.rpc.v1 import repcenter_pb2 as p, repcenter_pb2_grpc\n"
        "r = p.ScoreRequest(candidates=['a'], behaviours=[p.Behaviour(item_id='b', timestamp_ms=7)])\n"
        "print(a.Type(), r.SerializeToString().hex())"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": implementation, "PYTHONPATH": str(PROTO.parents[3])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [implementation, "1a050a01621007220161"]


def test_grpc_stubs_call_these_paths() -> None:
    source = inspect.getsource(importlib.import_module("contracts.rpc.v1.repcenter_pb2_grpc"))
    for service, methods in SERVICES.items():
        assert {f"'/repcenter.v1.{service}/{method}'" for method in methods} <= set(
            re.findall(r"'/repcenter[^']*'", source)
        )
        servicer = getattr(repcenter_pb2_grpc, f"{service}Servicer")
        assert all(callable(getattr(servicer, method)) for method in methods)


def test_candidate_statuses_are_those_of_the_answer() -> None:
    for name in ("OK", "COLD", "MISSING", "DEFAULT"):
        number = repcenter_pb2.CandidateStatus.Value(f"CANDIDATE_STATUS_{name}")
        assert getattr(scores, name) == number
        assert scores.STATUS_NAMES[number] == name.lower()
