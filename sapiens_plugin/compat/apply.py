"""All repairs, in their order."""

from functools import cache

from . import checkpoints, coco_api, configs, cpu, imports, unpickling, workers


@cache
def apply() -> None:
    """Repair everything, once in a process.

    It must come before ``mmpose.models``, whose import is among the things that fail;
    ``import sapiens_plugin.registry`` sees to that.
    """
    imports.silence_known_warnings()
    imports.find_packages_by_metadata()
    imports.stand_in_for_mmcv_ops()
    coco_api.stand_in_for_xtcocotools()
    imports.stand_in_for_torchvision()
    unpickling.allow_mmengine_checkpoints()
    checkpoints.load_checkpoints_on_cpu()
    checkpoints.release_loaded_weights()
    checkpoints.release_resumed_checkpoints()
    checkpoints.save_checkpoints_whole()
    configs.format_configs_once()
    configs.expand_home_in_configs()
    configs.let_none_turn_hooks_off()
    cpu.run_amp_on_cpu()
    cpu.run_distributed_on_cpu()
    # These import what could not be imported before.
    from . import (
        annotations,
        coco_evaluation,
        converters,
        detections,
        drawing,
        evaluators,
        images,
        records,
    )

    annotations.check_annotation_files()
    detections.read_detections_of_any_category()
    images.read_images_as_labelled()
    drawing.draw_circles_of_one_radius()
    evaluators.tell_data_sets_apart()
    coco_evaluation.evaluate_quickly()
    workers.repair_workers(apply)
    workers.share_annotations()
    workers.await_dead_workers()
    workers.load_without_workers()
    converters.convert_keypoints_whole()
    records.outlive_full_disks()
    records.leave_non_finite_out_of_means()
