"""Named runs: functions that return a RunConfig."""

from .cube import student_cube_none, student_cube_small, teacher_cube

RECIPES = {recipe.__name__: recipe for recipe in (student_cube_none, student_cube_small, teacher_cube)}
