"""Passwords are shown nowhere, in whatever form an address holds them."""

from __future__ import annotations

import pytest

from mollify_core.hiding import hidden
from mollify_sweeps.plan.options import Command
from mollify_sweeps.study.database import Location

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:hunter2@h/db", "postgresql://me:***@h/db"),
        ("postgresql+psycopg2://me:a/b?hunter2@h/db", "postgresql+psycopg2://me:***@h/db"),
        ("postgresql://me:a@hunter2@h/db", "postgresql://me:***@h/db"),
        ("redis://:hunter2@h:6379/0", "redis://:***@h:6379/0"),
        ("postgresql://me@h/db?password=hunter2", "postgresql://me@h/db?password=***"),
        ("postgresql://h/db?user=me&password=hunter2&sslmode=require", None),
        ("postgresql://h/db?sslmode=require&sslpassword=hunter2", None),
        ("mysql+pymysql://h/db?Passwd=hunter2", "mysql+pymysql://h/db?Passwd=***"),
        ("mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dhunter2", "mssql+pyodbc:///?odbc_connect=***"),
        ("--study-url=postgresql://me@h/db?password=hunter2", "--study-url=postgresql://me@h/db?password=***"),
        ("https://mirror.example.org/x?X-Amz-Signature=hunter2&a=b", None),
        ('invalid dsn: "host=h password=hunter2 user=me"', None),
        ("connection failed: password='hun ter2 hunter2' x", "connection failed: password=*** x"),
    ],
)
def test_every_form_is_hidden(text, shown):
    assert SECRET not in hidden(text)
    assert "***" in hidden(text)
    assert shown is None or hidden(text) == shown
    assert hidden(hidden(text)) == hidden(text)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me@h:5432/db?sslmode=require&connect_timeout=10",
        "sqlite:////data/study.sqlite",
        "s3://bucket/x?region=eu-north-1&endpoint_override=127.0.0.1:9000",
        "http://127.0.0.1:8265",
        "--share",
        "plain=1,mollification=2",
        "batch_size=128",
    ],
)
def test_what_holds_none_is_shown_as_it_is(text):
    assert hidden(text) == text


def test_what_is_kept_of_a_study_and_of_a_command():
    url = "postgresql://me@h/db?password=hunter2"
    location = Location(url)
    assert location.shown == "postgresql://me@h/db?password=***"
    assert Location(location.shown).incomplete
    assert not location.incomplete
    assert SECRET not in str(Command("sweeps/search.py", ("--dataset", "digits", "--study-url", url)).shown)
