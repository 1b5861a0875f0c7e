"""The peer of bench_ingest.py: FastAPI, pydantic, SQLAlchemy storing the same events, as their manuals show.

Checked by pydantic, each message id once by the database, committed with synchronous=FULL before the answer.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Literal

import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from pydantic import BaseModel, Field
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
)
from sqlalchemy.dialects.sqlite import insert

metadata = MetaData()
events = Table(
    "events",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("message_id", String(100), unique=True, nullable=False),
    Column("type", String(16), nullable=False),
    Column("user_id", String(512)),
    Column("anonymous_id", String(512)),
    Column("event", String(512)),
    Column("properties", JSON),
    Column("context", JSON),
    Column("occurred_at", DateTime),
)


class Call(BaseModel):
    """One of Segment's calls."""

    type: Literal["identify", "track", "page", "screen", "group", "alias"] = "track"
    messageId: str = Field(min_length=1, max_length=100)
    userId: str | None = Field(default=None, max_length=512)
    anonymousId: str | None = Field(default=None, max_length=512)
    event: str | None = Field(default=None, max_length=512)
    properties: dict[str, Any] = {}
    context: dict[str, Any] = {}
    timestamp: datetime
    sentAt: datetime | None = None


class Batch(BaseModel):
    """A batch of them."""

    batch: list[Call] = Field(max_length=2500)
    sentAt: datetime | None = None


def build(path: str) -> FastAPI:
    engine = create_engine(f"sqlite:///{path}")

    @event.listens_for(engine, "connect")
    def _durable(connection: Any, _record: Any) -> None:
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = full")

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        metadata.create_all(engine)
        yield

    app = FastAPI(lifespan=lifespan)
    basic = HTTPBasic()

    def authorised(credentials: HTTPBasicCredentials = Depends(basic)) -> None:  # noqa: B008 - FastAPI's way
        if credentials.username != "key":
            raise HTTPException(401)

    def store(calls: list[Call]) -> None:
        rows = [
            {
                "message_id": call.messageId,
                "type": call.type,
                "user_id": call.userId,
                "anonymous_id": call.anonymousId,
                "event": call.event,
                "properties": call.properties,
                "context": call.context,
                "occurred_at": call.timestamp,
            }
            for call in calls
        ]
        with engine.begin() as connection:
            connection.execute(insert(events).on_conflict_do_nothing(), rows)

    @app.post("/v1/track", dependencies=[Depends(authorised)])
    def track(call: Call) -> dict[str, bool]:
        store([call])
        return {"success": True}

    @app.post("/v1/batch", dependencies=[Depends(authorised)])
    def batch(body: Batch) -> dict[str, bool]:
        store(body.batch)
        return {"success": True}

    return app


if __name__ == "__main__":
    uvicorn.run(build(sys.argv[1]), port=int(sys.argv[2]), log_level="error", access_log=False)
