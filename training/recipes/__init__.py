# SPDX-License-Identifier: Apache-2.0
"""Named runs: functions that return a RunConfig."""

from .cube import student_cube_none, student_cube_small, teacher_cube
from .heatmap import student_lmo_heatmap, student_lmo_okdhp
from .lmo import (
    student_lmo_adlp,
    student_lmo_dense_adlp,
    student_lmo_dense_none,
    student_lmo_none,
    teacher_lmo,
    teacher_lmo_dense,
)
from .people import people_recipes
from .surface import surface_cube, surface_lmo, surface_ycb

RECIPES = {
    recipe.__name__: recipe
    for recipe in (
        student_cube_none,
        student_cube_small,
        teacher_cube,
        student_lmo_none,
        student_lmo_adlp,
        teacher_lmo,
        student_lmo_dense_none,
        student_lmo_dense_adlp,
        teacher_lmo_dense,
        student_lmo_heatmap,
        student_lmo_okdhp,
        surface_cube,
        surface_lmo,
        surface_ycb,
    )
} | people_recipes()
