# SPDX-License-Identifier: Apache-2.0
"""The GLSL of the renderer: light, shadow, contact darkening; and the labels (instance and depth)."""

MESH_VERTEX = """
#version 330
in vec3 in_position; in vec3 in_normal; in vec2 in_uv; in float in_layer; in vec3 in_colour;
uniform mat4 world_body; uniform mat4 clip_world; uniform mat3 normal_matrix;
out vec3 at; out vec3 normal; out vec2 uv; flat out float layer; out vec3 colour;
void main() {
    vec4 world = world_body * vec4(in_position, 1.0);
    at = world.xyz; normal = normal_matrix * in_normal; uv = in_uv; layer = in_layer; colour = in_colour;
    gl_Position = clip_world * world;
}
"""

MESH_FRAGMENT = """
#version 330
in vec3 at; in vec3 normal; in vec2 uv; flat in float layer; in vec3 colour;
uniform sampler2DArray skin; uniform sampler2DShadow shadow_map;
uniform float layers; uniform float repeat; uniform vec3 tint;
uniform float specular; uniform float shininess;
uniform float albedo_gamma;  // 0: the colours as they are
uniform vec3 eye; uniform vec3 centre; uniform vec3 ambient_up; uniform vec3 ambient_down;
uniform vec4 light_position[3]; uniform vec3 light_colour[3]; uniform int lights;
uniform mat4 light_clip; uniform float softness; uniform int shadows;
uniform int is_table; uniform int has_table; uniform float contact; uniform float contact_reach;
uniform vec4 feet[10]; uniform vec2 feet_turn[10]; uniform int feet_count;
out vec4 result;

#ifndef ALONE
const vec2 TAPS[8] = vec2[](vec2(0.1, 0.3), vec2(-0.4, -0.1), vec2(0.5, -0.5), vec2(-0.3, 0.8),
    vec2(1.0, 0.1), vec2(-1.0, 0.2), vec2(-0.6, -0.9), vec2(0.8, 0.9));

float lit(float bias) {
    if (shadows == 0) return 1.0;
    vec4 clip = light_clip * vec4(at, 1.0);
    vec3 p = clip.xyz * 0.5 + 0.5;
    if (any(lessThan(p, vec3(0.0))) || any(greaterThan(p, vec3(1.0)))) return 1.0;
    float total = 0.0, step = softness / 1024.0;
    for (int i = 0; i < 8; ++i)
        total += texture(shadow_map, vec3(p.xy + step * TAPS[i], p.z - bias));
    return total / 8.0;
}

float falloff(float distance) {
    float near = max(1.0 - 0.25 * distance / contact_reach, 0.0);
    return near * near * near * near;
}

float open_sky() {
    float open = 1.0;
    if (is_table == 0) return has_table == 0 ? 1.0 : 1.0 - 0.5 * contact * falloff(max(at.z, 0.0));
    for (int i = 0; i < feet_count; ++i) {
        vec2 d = at.xy - feet[i].xy;
        vec2 t = feet_turn[i];
        vec2 q = abs(vec2(dot(t, d), t.x * d.y - t.y * d.x)) - feet[i].zw;
        open *= 1.0 - contact * falloff(length(max(q, 0.0)));
    }
    return open;
}
#endif

void main() {
    vec3 base = colour * tint;
#ifndef PLAIN
    base = texture(skin, vec3(uv * repeat, mod(layer, layers))).rgb * colour * tint;
#endif
    if (albedo_gamma > 0.0) base = pow(base, vec3(albedo_gamma));
    base *= base;
#ifdef ALONE
    float open = 1.0;
#else
    float open = open_sky();
#endif
    vec3 n = normalize(normal), view = normalize(eye - at);
    if (dot(n, view) < 0.0) n = -n;
    vec3 diffuse = mix(ambient_down, ambient_up, 0.5 + 0.5 * n.z) * open, gloss = vec3(0.0);
    for (int i = 0; i < lights; ++i) {
        vec3 to = light_position[i].xyz - at * light_position[i].w;
        vec3 reach = light_position[i].xyz - centre;
        float far = light_position[i].w > 0.5 ? dot(reach, reach) / max(dot(to, to), 0.01) : 1.0;
        to = normalize(to);
        float facing = max(dot(n, to), 0.0);
        vec3 arrives = light_colour[i] * min(far, 4.0);
#ifndef ALONE
        arrives *= i == 0 ? lit(0.003 + 0.002 * (1.0 + softness) * (1.0 - facing)) : 0.5 + 0.5 * open;
#endif
        diffuse += arrives * facing;
        float mirrored = max(dot(n, normalize(to + view)), 0.0);
        if (specular > 0.0) gloss += arrives * specular * pow(mirrored, shininess);
    }
    vec3 linear = base * diffuse + gloss;
    linear = mix(linear, 1.0 - 0.0625 / max(linear - 0.5, 0.25), step(0.75, linear));
    result = vec4(sqrt(linear), 1.0);
}
"""


def variant(fragment: str, *names: str) -> str:
    """Return MESH_FRAGMENT with a part left out: ALONE has no shadows and no table, PLAIN no picture."""
    version, rest = fragment.lstrip().split("\n", 1)
    return "\n".join([version, *(f"#define {name}" for name in names), rest])


LABEL_VERTEX = """
#version 330
in vec3 in_position;
uniform mat4 world_body; uniform mat4 clip_world;
out float depth;
void main() { gl_Position = clip_world * world_body * vec4(in_position, 1.0); depth = gl_Position.w; }
"""

LABEL_FRAGMENT = """
#version 330
in float depth; uniform float label; out vec2 result;
void main() { result = vec2(label, depth); }
"""

DEPTH_ONLY_FRAGMENT = """
#version 330
in float depth;
void main() { }
"""

BACKGROUND_VERTEX = """
#version 330
in vec2 in_corner; out vec2 uv;
void main() { uv = 0.5 + 0.5 * in_corner; gl_Position = vec4(in_corner, 0.999999, 1.0); }
"""

BACKGROUND_FRAGMENT = """
#version 330
in vec2 uv; uniform sampler2D picture; uniform float brightness; out vec4 result;
void main() { result = vec4(min(texture(picture, uv).rgb * brightness, vec3(1.0)), 1.0); }
"""
