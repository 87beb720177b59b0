"""MuJoCo's warnings: they do not pass through Python, where an interrupt would be lost."""

import subprocess
import sys

import mujoco
from trimtab.robots.suite import control_suite

PLANT = "<mujoco><worldbody><body><freejoint/><geom size='.1'/></body></worldbody></mujoco>"


def diverge() -> int:
    """How often MuJoCo has warned of a plant that diverges in its first step."""
    model = mujoco.MjModel.from_xml_string(PLANT)
    data = mujoco.MjData(model)
    data.qvel[:] = 1e30
    mujoco.mj_step(model, data)
    return data.warning[mujoco.mjtWarning.mjWARN_BADQVEL].number


def test_warnings_do_not_pass_through_python():
    control_suite()
    called = []
    sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_name) if event == "call" else None)
    try:
        warned = diverge()
    finally:
        sys.setprofile(None)
    assert warned == 1
    assert "_warning_callback" not in called  # dm_control's


def test_the_command_line_leaves_no_log_of_warnings(tmp_path):
    program = (
        "from trimtab.launch import terminal; import sys, mujoco\n"
        "with terminal.getting_ready(terminal.console(sys.stderr), 'x'): pass\n"
        f'model = mujoco.MjModel.from_xml_string("{PLANT}"); data = mujoco.MjData(model)\n'
        "data.qvel[:] = 1e30; mujoco.mj_step(model, data)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout + ran.stderr == ""
    assert not list(tmp_path.iterdir())
