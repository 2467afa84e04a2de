# Judge the half maps: unmasked, masked and phase-randomised FSC, resolution, angular coverage, hand, model.


rule validate_maps:
    input:
        half1="<results>/reconstruct/refine/half1.mrc",
        half2="<results>/reconstruct/refine/half2.mrc",
        mask="<results>/reconstruct/refine/mask.mrc",
        particles="<results>/reconstruct/refine/particles.star",
        verdicts="<results>/reconstruct/refine/verdicts.json",
        model=[project.settings.input.model] if project.settings.input.model else [],
    output:
        validation="<results>/validate/validation.json",
        fsc="<results>/validate/fsc.star",
        metrics="<results>/validate/metrics.json",
        verdicts="<results>/validate/verdicts.json",
    log:
        "<results>/records/validate.maps/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(8)
    resources:
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        cfg=section("validate.maps"),
        folder=subpath(output.validation, parent=True),
        reconstruct=subpath(input.verdicts, parent=True),
        model=(
            ["--model", project.settings.input.model]
            if project.settings.input.model
            else []
        ),
    shell:
        "emflow validate maps {input.half1} {input.half2} {params.folder}"
        " --mask {input.mask} --particles {input.particles} --reconstruct {params.reconstruct} {params.model:q}"
        " --json {params.cfg:q} --threads {threads} --record {log}"


rule validate_local:
    input:
        half1="<results>/reconstruct/refine/half1.mrc",
        half2="<results>/reconstruct/refine/half2.mrc",
        mask="<results>/reconstruct/refine/mask.mrc",
    output:
        metrics="<results>/validate/local/metrics.json",
        verdicts="<results>/validate/local/verdicts.json",
    log:
        "<results>/records/validate.local/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(8)
    resources:
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        cfg=section("validate.local"),
        folder=subpath(output.metrics, parent=True),
    shell:
        "emflow validate local {input.half1} {input.half2} {params.folder} --mask {input.mask}"
        " --json {params.cfg:q} --threads {threads} --record {log}"


rule validate_particles:
    input:
        particles="<results>/reconstruct/refine/particles.star",
        half1="<results>/reconstruct/refine/half1.mrc",
        half2="<results>/reconstruct/refine/half2.mrc",
        mask="<results>/reconstruct/refine/mask.mrc",
    output:
        particles="<results>/validate/particles/particles.star",
        outliers="<results>/validate/particles/outliers.star",
        rings="<results>/validate/particles/rings.star",
        validation="<results>/validate/particles/validation.json",
        metrics="<results>/validate/particles/metrics.json",
        verdicts="<results>/validate/particles/verdicts.json",
    log:
        "<results>/records/validate.particles/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(8)
    resources:
        gpu=project.gpu,
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        cfg=section("validate.particles"),
        folder=subpath(output.particles, parent=True),
    shell:
        "emflow validate particles {input.particles} {input.half1} {input.half2} {params.folder}"
        " --mask {input.mask} --json {params.cfg:q} --threads {threads} --record {log}"


# The noise control is made on demand: snakemake … results/<project>/validate/noise_control/verdicts.json


rule noise_control:
    input:
        particles="<results>/extract/recentered/particles.star",
        half1="<results>/reconstruct/refine/half1.mrc",
        half2="<results>/reconstruct/refine/half2.mrc",
    output:
        "<results>/validate/noise_control/stack/particles.star",
    log:
        "<results>/records/validate.noise_control/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        cfg=section("validate.noise_control"),
        folder=subpath(output[0], parent=True),
    shell:
        "emflow validate noise-control {input.particles} {params.folder}"
        " --half1 {input.half1} --half2 {input.half2}"
        " --json {params.cfg:q} --threads {threads} --record {log}"


if "reconstruct" in project.rooms and "reconstruct.refine" not in project.frozen:

    use rule reconstruct_refine as noise_control_refine with:
        input:
            particles="<results>/validate/noise_control/stack/particles.star",
            start="<results>/reconstruct/abinitio/map.mrc",
            metrics="<results>/reconstruct/abinitio/metrics.json",
        output:
            half1="<results>/validate/noise_control/refine/half1.mrc",
            half2="<results>/validate/noise_control/refine/half2.mrc",
            map="<results>/validate/noise_control/refine/map.mrc",
            mask="<results>/validate/noise_control/refine/mask.mrc",
            particles="<results>/validate/noise_control/refine/particles.star",
            fsc="<results>/validate/noise_control/refine/fsc.star",
            metrics="<results>/validate/noise_control/refine/metrics.json",
            verdicts="<results>/validate/noise_control/refine/verdicts.json",
        log:
            "<results>/records/reconstruct.refine/noise_control.json",


rule noise_compare:
    input:
        refined="<results>/reconstruct/refine/half1.mrc",
        mask="<results>/reconstruct/refine/mask.mrc",
        control="<results>/validate/noise_control/refine/half1.mrc",
        particles="<results>/validate/noise_control/refine/particles.star",
    output:
        validation="<results>/validate/noise_control/validation.json",
        fsc="<results>/validate/noise_control/fsc.star",
        metrics="<results>/validate/noise_control/metrics.json",
        verdicts="<results>/validate/noise_control/verdicts.json",
    log:
        "<results>/records/validate.noise_compare/all.json",
    conda:
        "../../envs/emflow.yaml"
    threads: project.threads(4)
    resources:
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        cfg=section("validate.noise_compare"),
        refined=subpath(input.refined, parent=True),
        control=subpath(input.control, parent=True),
        folder=subpath(output.validation, parent=True),
    shell:
        "emflow validate noise-compare {params.refined} {params.control} {params.folder}"
        " --mask {input.mask} --json {params.cfg:q} --threads {threads} --record {log}"


if "heterogeneity" in project.rooms:

    rule validate_states:
        input:
            latents="<results>/heterogeneity/latents.star",
            mask="<results>/reconstruct/refine/mask.mrc",
        output:
            states="<results>/validate/states/states.star",
            metrics="<results>/validate/states/metrics.json",
            verdicts="<results>/validate/states/verdicts.json",
        log:
            "<results>/records/validate.states/all.json",
        conda:
            "../../envs/emflow.yaml"
        threads: project.threads(8)
        resources:
            mem_mb=lambda wildcards, attempt: 16000 * attempt,
            runtime=lambda wildcards, attempt: 120 * attempt,
        params:
            cfg=section("validate.states"),
            analysis=subpath(input.latents, parent=True),
            folder=subpath(output.states, parent=True),
        shell:
            "emflow validate states {params.analysis} {params.folder} --mask {input.mask}"
            " --json {params.cfg:q} --threads {threads} --record {log}"
