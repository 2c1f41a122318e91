"""Pages served on this machine: looking around in a scene, from a photograph to one, a study.

Needs the extra `web`; importing this package without it raises with the command that installs it.
"""

from zeronvs._core.optional import require

require("fastapi", "web")
require("uvicorn", "web")
