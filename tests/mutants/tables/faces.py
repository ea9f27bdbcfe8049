"""Mutants of the detection of faces."""

from tests.mutants.mutant import of

DETECT, NETWORKS = "tests/faces/test_detect.py", "tests/faces/test_networks.py"

MUTANTS = [
    *of("emv3_jax/faces/detect.py", DETECT,
        ("the mesh is not asked", "if presence >= least:", "if True:",
         "test_a_proposal_without_a_face_is_refused_by_the_mesh"),
        ("parts need no surer face", "PRESENT, SURE, CERTAIN = 0.0, 3.0", "PRESENT, SURE, CERTAIN = 0.0, 0.0",
         "test_a_face_in_a_part_has_to_be_surer"),
        ("parts are not searched", "for share in PARTS:", "for share in ():",
         "test_finds_small_faces_in_parts_of_the_picture"),
        ("the smallest face comes first", "key=lambda face: -face.area", "key=lambda face: face.area",
         "test_the_largest_of_several_comes_first"),
        ("a chin may be a forehead", "if its_presence > max(presence, SURE):", "if False:",
         "test_finds_faces_in_pictures_that_lie_on_their_side_or_head"),
        ("points are not moved to their anchors", "centred += blaze_face.anchors()[kept][:, None]",
         "centred[:, 0] += blaze_face.anchors()[kept]", "test_proposals_are_decoded_from_their_anchors"),
        ("proposals are not weighted", "axis=0, weights=weights", "axis=0",
         "test_overlapping_proposals_become_their_weighted_mean"),
        ("parts leave a rim", "math.ceil((length - side) / (STEP * side))", "math.floor((length - side) / (STEP * side))",
         "test_parts_cover_the_picture")),
    *of("emv3_jax/models/blaze_layers.py", NETWORKS,
        ("the skip is an average", "lax.reduce_window(x, -jnp.inf, lax.max,", "0.25 * lax.reduce_window(x, 0.0, lax.add,",
         "test_the_detector_agrees", "test_the_mesh_agrees"),
        ("negative values are cut", "params[\"slope\"] * x) if", "0 * x) if", "test_the_mesh_agrees")),
    *of("emv3_jax/faces/mesh.py", DETECT,
        ("a tilted face has an upright box", "half_width = math.hypot(a * math.cos(angle), b * math.sin(angle))", "half_width = a",
         "test_a_tilted_head_has_a_box_about_its_ellipse")),
    *of("emv3_jax/faces/mesh.py", "tests/faces/test_mesh.py",
        ("points stay in the crop", "points[:, :2] @ matrix[:, :2].T + matrix[:, 2]", "points[:, :2]",
         "test_landmarks_lie_on_the_face"),
        ("depth is not scaled", "points[:, 2] * (side / SIZE)", "points[:, 2] * -(side / SIZE)",
         "test_landmarks_lie_on_the_face"),
        ("the mouth has no margin", "return y1 - room, y2 + room, x1 - room, x2 + room", "return y1, y2, x1, x2",
         "test_the_mouth_box_encloses_the_lips"),
        ("the opening is in pixels", "/ max(math.dist(left, right), 1e-6)", "/ 40", "test_the_opening_is_a_ratio")),
    *of("emv3_jax/sampling/fingerprint.py", "tests/sampling/test_fingerprint.py",
        ("the detector does not count", "used[\"face_detector\"] = detect.IDENTITY", "pass",
         "test_the_detector_counts_where_it_is_asked")),
]
