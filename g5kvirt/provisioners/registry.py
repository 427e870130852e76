"""The provisioners by name.

A new one is a folder (or file) with a class of the shape of `g5kvirt.provisioners.base.Provisioner`, a line
here, and its name among the choices of `g5kvirt.spec.spec.Spec.provisioner`.
"""

from __future__ import annotations

from collections.abc import Mapping

from g5kvirt.provisioners.base import Provisioner
from g5kvirt.provisioners.builtin.provisioner import BuiltinProvisioner
from g5kvirt.provisioners.kadeploy3.provisioner import Kadeploy3Provisioner

__all__ = ["PROVISIONERS"]

#: As `Spec.provisioner` names them.
PROVISIONERS: Mapping[str, Provisioner] = {
    "g5kvirt": BuiltinProvisioner(),
    "kadeploy3": Kadeploy3Provisioner(),
}
