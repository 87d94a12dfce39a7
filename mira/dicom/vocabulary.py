"""Words that name imaging, and nobody: anatomy, planes, sequences, kernels, drugs, coding schemes."""


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


STANDARD_TERMS = words(
    """
    ORIGINAL DERIVED PRIMARY SECONDARY AXIAL LOCALIZER MONOCHROME1 MONOCHROME2 MONOCHROME BQML CNTS GML PROPCPS HFS
    HFP FFS FFP HFDR HFDL FFDR FFDL START ADMIN NONE DECY ATTN SCAT DTIM MOTN PMOT CLN RAN RADL DCAL NORM STATIC DYNAMIC
    GATED WHOLE BODY IMAGE YES VOLUME MAGNITUDE HELICAL REPROJECTION SIEMENS PHILIPS GE MEDICAL SYSTEMS TOSHIBA CANON
    UIH HEALTHCARE
    """
)
"""Terms that the standard defines and names of makers: kept even if a patient is called so."""

IMAGING_WORDS = words(
    """
    CT CTA PET PT PETCT MR MRI MRA MRV DWI ADC DTI SWI FLAIR STIR TIR TIRM TSE FSE SE GRE FFE TFE TFL MPRAGE SPGR FSPGR
    BRAVO CUBE SPACE VISTA HASTE SSFSE BLADE PROPELLER TRUFI FISP FIESTA VIBE LAVA DIXON EPI BOLD ASL TOF PC CINE T1 T2
    T1W T2W T2STAR PD PDW W FS FATSAT SAT WATER FAT IN OUT OPP PHASE PRE POST PLAIN CONTRAST NATIVE WITHOUT WITH CE GD
    KM MIT OHNE ARTERIAL VENOUS PORTAL DELAYED LATE EARLY DYN DYNAMIC DCE PERFUSION DIFFUSION TRACE AX AXIAL TRA TRANS
    TRANSVERSAL COR CORONAL SAG SAGITTAL OBL OBLIQUE ISO 3D 2D 4D HEAD BRAIN NECK THORAX CHEST LUNG LUNGS MEDIASTINUM
    HEART CARDIAC ABDOMEN ABD LIVER KIDNEY KIDNEYS PANCREAS SPLEEN PELVIS PROSTATE UTERUS BLADDER SPINE CERVICAL
    THORACIC LUMBAR LSPINE CSPINE TSPINE HIP KNEE ANKLE FOOT SHOULDER ELBOW WRIST HAND THIGH LEG ARM EXTREMITY SINUS
    ORBIT ORBITS TEMPORAL BONE SOFT TISSUE STANDARD SHARP SMOOTH WHOLE BODY WB TORSO AC NAC ATTN CORRECTED UNCORRECTED
    RECON MIP MPR AVG THIN THICK SLICE LOW DOSE ULD LD SCOUT TOPOGRAM LOCALIZER LOCALISER SURVEY FDG PSMA DOTATATE
    FET FLT NAF HELICAL SPIRAL GATED RESP BREATH HOLD INSP EXP SUPINE PRONE LEFT RIGHT LT RT BILATERAL ROUTINE HR UHR
    HRCT SERIES SCAN TUMOR TUMOUR LESION GTV CTV PTV EDEMA MASS NODULE ORGAN CONTOUR STRUCTURE MIRA NET
    RESEARCH USE
    """
)
"""What a cleaned description may say."""

CODING_SCHEMES = words("DCM SCT SRT SNM3 99SDM UCUM LN RADLEX FMA NCIt 99MIRA")
"""Schemes whose codes mean the same everywhere; those of a hospital may be anything."""

TEXT_ATTRIBUTES = words(
    """
    Manufacturer ManufacturerModelName SoftwareVersions ConvolutionKernel SequenceName PulseSequenceName FilterType
    ReceiveCoilName TransmitCoilName ImagedNucleus ReconstructionMethod RandomsCorrectionMethod
    AttenuationCorrectionMethod ScatterCorrectionMethod ReprojectionMethod Radiopharmaceutical RescaleType
    ModalityLUTType WindowCenterWidthExplanation LUTExplanation PositionReferenceIndicator
    ContrastBolusRoute RadiopharmaceuticalRoute CodeValue CodingSchemeDesignator CodingSchemeVersion CodeMeaning
    DimensionDescriptionLabel StackID ResonantNucleus ReconstructionAlgorithm
    ApplicableSafetyStandardDescription CollimatorGridName FilterMaterial AnodeTargetMaterial
    """
)
"""Attributes of free VR that scanners fill with codes; every other text attribute outside Table E.1-1 is left out."""

HEADLESS = words("CHEST THORAX LUNG ABDOMEN PELVIS LIVER KIDNEY PROSTATE HEART KNEE HIP ANKLE FOOT HAND WRIST")
"""Body parts whose images show no face."""
