"""Jobs submitted, deleted and prolonged over the REST API, with OAR's own commands on the frontend."""

from __future__ import annotations

from http import HTTPStatus

from g5kvirt.testbeds.local import reference
from g5kvirt.testbeds.local.oardb import Job
from g5kvirt.testbeds.local.rest import jobs, submission
from g5kvirt.testbeds.local.rest.http import Answer, HttpError, Request, fields_of
from g5kvirt.testbeds.local.rest.services import Services, required

__all__ = ["JobWrites"]

_ENDED = ("Terminated", "Error", "toError")
#: What oarwalltime's exit codes mean.
_WALLTIME_ERRORS = {
    1: HTTPStatus.BAD_REQUEST,
    3: HTTPStatus.FORBIDDEN,
    4: HTTPStatus.NOT_FOUND,
    5: HTTPStatus.METHOD_NOT_ALLOWED,
}


class JobWrites:
    """Requests that change jobs. Only the user whose job it is may change it."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def find(self, site: str, job: str) -> Job:
        """The job with this id. Raises HttpError."""
        found = self._services.database(site).job(int(job)) if job.isdecimal() and len(job) < 11 else None
        if found is None:
            raise HttpError(HTTPStatus.NOT_FOUND, f"{site} has no job {job}")
        return found

    def submit(self, site: str, request: Request) -> Answer:
        """Submit a job; answers with the job. Raises HttpError with OAR's reason if it is refused."""
        argv = submission.oarsub(fields_of(request.body))
        code, printed = required(self._services.commands).run(site, argv)
        number = submission.submitted_job(code, printed)
        document = jobs.document(site, self.find(site, str(number)), resources=True)
        return Answer(document, HTTPStatus.CREATED, _headers(site, number, printed))

    def delete(self, site: str, job: str, request: Request) -> Answer:
        """Delete a job. Raises HttpError."""
        found = self._own(site, job, request)
        printed = f"Job {found.id} has already ended"
        if found.state not in _ENDED:
            code, printed = required(self._services.commands).run(site, ["oardel", str(found.id)])
            if code:
                raise HttpError(HTTPStatus.BAD_REQUEST, f"OAR did not delete job {job}: {_line(printed)}")
        return Answer(None, HTTPStatus.ACCEPTED, _headers(site, found.id, printed))

    def walltime(self, site: str, job: str, request: Request) -> Answer:
        """How much longer a job may get, and what has been requested. Raises HttpError."""
        found = self.find(site, job)
        code, printed = required(self._services.commands).run(site, ["oarwalltime", str(found.id)])
        if code:
            raise HttpError(HTTPStatus.BAD_REQUEST, _line(printed))
        return Answer(submission.walltime_document(found.id, printed))

    def change_walltime(self, site: str, job: str, request: Request) -> Answer:
        """Request another walltime for a running job. Raises HttpError."""
        found = self._own(site, job, request)
        argv = submission.oarwalltime(found.id, fields_of(request.body))
        code, printed = required(self._services.commands).run(site, argv)
        message = _line(printed)
        if code:
            raise HttpError(_WALLTIME_ERRORS.get(code, HTTPStatus.BAD_REQUEST), message)
        status = HTTPStatus.ACCEPTED
        document = {"code": int(status), "title": status.phrase, "message": message, "uid": found.id}
        return Answer(document, status, _headers(site, found.id, printed))

    def _own(self, site: str, job: str, request: Request) -> Job:
        found = self.find(site, job)
        if found.user != request.user:
            raise HttpError(HTTPStatus.FORBIDDEN, f"job {job} of {site} belongs to {found.user}, not to you")
        return found


def _line(printed: str) -> str:
    """What a command printed, in one line of at most 500 characters, fit for a header."""
    text = " ".join(printed.split())
    return "".join(c if " " <= c <= "~" else "?" for c in text)[:500]


def _headers(site: str, job: int, printed: str) -> dict[str, str]:
    return {"Location": f"{reference.ROOT}/sites/{site}/jobs/{job}", "X-Oar-Info": _line(printed)}
